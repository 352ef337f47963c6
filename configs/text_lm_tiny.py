"""configs/text_lm.py, small enough to train in a minute on a laptop: 0.1 million parameters.

Train it with `tfbig train --config=configs/text_lm_tiny.py --model_dir=runs/text_lm_tiny`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    # Builds the compiled model; called with params.
    config.model_fn = "tfbig.models.transformer_lm.build"
    # The training data: windows of bytes as a Source, in a new random order in each pass.
    config.input_fn = "tfbig.datasets.text.input_fn"
    # The held-out data: windows of other files.
    config.eval_input_fn = "tfbig.datasets.text.input_fn"

    config.params = ConfigDict()
    # Number of blocks of attention and MLP.
    config.params.layers = 2
    # Width of the residual stream.
    config.params.width = 64
    # Attention heads, a divisor of the width.
    config.params.heads = 4
    # The longest input, in tokens.
    config.params.sequence_length = 64

    config.params.data = ConfigDict()
    # The global batch size: sequences per step on all devices together.
    config.params.data.batch_size = 16
    # Tokens in a sequence, at most the model's sequence_length.
    config.params.data.sequence_length = 64
    # The folder, read recursively; None for the standard library of the running Python.
    config.params.data.folder = None
    # Suffixes of the files to read.
    config.params.data.patterns = (".py", ".txt")
    # The number of bytes to train on; None for all.
    config.params.data.max_bytes = 2_000_000
    # The number of held-out bytes to evaluate on; None for max_bytes.
    config.params.data.eval_max_bytes = 65_536

    config.optimizer = ConfigDict()
    # The name of any Keras optimizer.
    config.optimizer.name = "adam"
    # The largest norm of all gradients together; a larger one is scaled down.
    config.optimizer.global_clipnorm = 1.0
    # A number or a schedule; this one rises from 0 to the peak and falls to 0 at the last step.
    config.optimizer.learning_rate = ConfigDict()
    # The schedule's shape: cosine, linear, step, exponential or constant.
    config.optimizer.learning_rate.schedule = "cosine"
    # The highest rate.
    config.optimizer.learning_rate.peak = 5e-3
    # Steps from 0 to the peak.
    config.optimizer.learning_rate.warmup_steps = 100

    # Fields of tfbig.RunConfig; the others keep their defaults.
    config.run = ConfigDict()
    # The seed of weights and shuffles; None chooses a random one. Equal seeds give equal runs.
    config.run.tf_random_seed = 0
    # Steps between two evaluations; None evaluates after each pass over the data.
    config.run.eval_every_steps = 500

    # The last step: 1.5 million tokens.
    config.max_steps = 1500
    return config
