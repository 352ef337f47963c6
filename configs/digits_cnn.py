"""A convolutional network on handwritten digits: about 0.985 held-out accuracy in seconds.

Train it with `tfbig train --config=configs/digits_cnn.py --model_dir=runs/digits_cnn`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    # Builds the compiled model; called with params.
    config.model_fn = "tfbig.models.cnn.build"
    # The training data: 1438 images as a Source, in a new random order in each pass.
    config.input_fn = "tfbig.datasets.digits.input_fn"
    # The held-out data: a stratified fifth, 359 images.
    config.eval_input_fn = "tfbig.datasets.digits.input_fn"

    config.params = ConfigDict()
    # Channels of each 3x3 convolution, which is followed by 2x2 pooling.
    config.params.filters = (64,)
    # Width of each dense layer after them.
    config.params.hidden_units = (128,)
    # Rate of dropout before each dense layer.
    config.params.dropout = 0.0
    # Height, width and channels of an image.
    config.params.input_shape = (8, 8, 1)
    # Number of logits.
    config.params.num_classes = 10

    config.params.data = ConfigDict()
    # The global batch size: examples per step on all devices together.
    config.params.data.batch_size = 64

    config.optimizer = ConfigDict()
    # The name of any Keras optimizer.
    config.optimizer.name = "adamw"
    # Weight decay: each step subtracts this share of each weight, times the learning rate.
    config.optimizer.weight_decay = 0.1
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

    # The last step: 43 passes over the data.
    config.max_steps = 1000
    return config
