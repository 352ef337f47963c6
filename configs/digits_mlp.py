"""A perceptron on handwritten digits: about 0.99 held-out accuracy in a few seconds.

Train it with `tfbig train --config=configs/digits_mlp.py --model_dir=runs/digits_mlp`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    # Builds the compiled model; called with params.
    config.model_fn = "tfbig.models.mlp.build"
    # The training data: 1438 images as a Source, in a new random order in each pass.
    config.input_fn = "tfbig.datasets.digits.input_fn"
    # The held-out data: a stratified fifth, 359 images.
    config.eval_input_fn = "tfbig.datasets.digits.input_fn"

    config.params = ConfigDict()
    # Width of each hidden layer.
    config.params.hidden_units = (256, 128)
    # Rate of dropout after each hidden layer.
    config.params.dropout = 0.0
    # Shape of one example: (64,) if data.flat = True.
    config.params.input_shape = (8, 8, 1)
    # Number of logits.
    config.params.num_classes = 10

    config.params.data = ConfigDict()
    # The global batch size: examples per step on all devices together.
    config.params.data.batch_size = 64
    # Whether an image is 64 numbers instead of 8 x 8 x 1.
    config.params.data.flat = False

    config.optimizer = ConfigDict()
    # The name of any Keras optimizer.
    config.optimizer.name = "adam"
    # A number or a schedule; this one rises from 0 to the peak and falls to 0 at the last step.
    config.optimizer.learning_rate = ConfigDict()
    # The schedule's shape: cosine, linear, step, exponential or constant.
    config.optimizer.learning_rate.schedule = "cosine"
    # The highest rate.
    config.optimizer.learning_rate.peak = 3e-3
    # Steps from 0 to the peak.
    config.optimizer.learning_rate.warmup_steps = 100

    # Fields of tfbig.RunConfig; the others keep their defaults.
    config.run = ConfigDict()
    # The seed of weights and shuffles; None chooses a random one. Equal seeds give equal runs.
    config.run.tf_random_seed = 0
    # Steps between two evaluations; None evaluates after each pass over the data.
    config.run.eval_every_steps = 500

    # The last step: 87 passes over the data.
    config.max_steps = 2000
    return config
