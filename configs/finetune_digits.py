"""Fine-tunes a network that knows the digits 0 to 4 on 20 examples each of 5 to 9, in seconds.

Run it with `tfbig finetune --config=configs/finetune_digits.py --model_dir=runs/finetune_digits`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    # The saved model to start from: a .keras or .h5 file, the folder of a SavedModel, or weights.
    # Weights need config.base_model_fn, the dotted name of a function that builds the model.
    config.pretrained = "runs/digits_0_to_4.h5"
    # The dotted name of a function that creates it if it is missing; this one takes seconds.
    config.pretrained_made_by = "examples.fine_tune_h5.pretrain"
    # The training data: the digits in config.params.data, as a Source.
    config.input_fn = "tfbig.datasets.digits.input_fn"
    # The held-out data: a stratified fifth of the same digits, 179 images.
    config.eval_input_fn = "tfbig.datasets.digits.input_fn"

    # Fields of tfbig.Recipe; the others keep their defaults. Instead of a recipe, set
    # config.model_fn, the dotted name of a function of the loaded model, and config.optimizer.
    config.recipe = ConfigDict()
    # A new head: the number of classes, or "regression"; None keeps the model's own.
    config.recipe.head = 5
    # None for nothing, "backbone" for all but the head, a number of first layers, or patterns.
    config.recipe.freeze = None
    # The layers to unfreeze at a global step, such as {"50": "dense", "80": "*"}.
    config.recipe.unfreeze = ConfigDict()
    # A number or a schedule; this one falls from the peak to 0 at the last step.
    config.recipe.learning_rate = ConfigDict()
    # The schedule's shape: cosine, linear, step, exponential or constant.
    config.recipe.learning_rate.schedule = "cosine"
    # The highest rate.
    config.recipe.learning_rate.peak = 3e-3
    # The factor of the rate per layer away from the output; 1 for equal rates.
    config.recipe.rate_decay = 1.0
    # The name of any Keras optimizer, or a ConfigDict of its name and arguments.
    config.recipe.optimizer = "adam"

    config.params = ConfigDict()
    config.params.data = ConfigDict()
    # The digits to learn, numbered from 0 in this order.
    config.params.data.classes = (5, 6, 7, 8, 9)
    # The number of training examples of each digit.
    config.params.data.examples_per_class = 20
    # The global batch size: examples per step on all devices together.
    config.params.data.batch_size = 25

    # Fields of tfbig.RunConfig; the others keep their defaults.
    config.run = ConfigDict()
    # The seed of the new head and of the shuffles. Equal seeds give equal runs.
    config.run.tf_random_seed = 0
    # Steps between two evaluations; None evaluates after each pass over the data.
    config.run.eval_every_steps = 20

    # The last step: 25 passes over 100 examples. Or config.epochs.
    config.max_steps = 100
    return config
