"""Evaluation of models: hold-out metrics, cross-validation, intervals and reports."""
