"""SavedModels of trained models, and the check of an export in another process."""
