"""From a saved model to a better one: loading, recipes, LoRA."""
