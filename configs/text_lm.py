"""A Transformer language model over bytes: 3.3 million parameters, 8 x 128 tokens a step.

Train it with `tfbig train --config=configs/text_lm.py --model_dir=runs/text_lm`.

It learns the text files of the running Python's standard library; a folder of your own is
--config.params.data.folder=FOLDER. The loss is also shown in bits per byte, 8 for no model at all.
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
    config.params.layers = 4
    # Width of the residual stream.
    config.params.width = 256
    # Attention heads, a divisor of the width.
    config.params.heads = 4
    # The MLP's width, divided by the stream's.
    config.params.mlp_ratio = 4
    # Rate of dropout after the embedding, each attention and each MLP.
    config.params.dropout = 0.0
    # Whether the output layer uses the embedding's weights.
    config.params.tied_embedding = True
    # The longest input, in tokens.
    config.params.sequence_length = 128
    # The number of different tokens, which are bytes.
    config.params.vocabulary_size = 256

    config.params.data = ConfigDict()
    # The global batch size: sequences per step on all devices together.
    config.params.data.batch_size = 8
    # Tokens in a sequence, at most the model's sequence_length.
    config.params.data.sequence_length = 128
    # The folder, read recursively; None for the standard library of the running Python.
    config.params.data.folder = None
    # Suffixes of the files to read.
    config.params.data.patterns = (".py", ".txt")
    # The share of held-out files.
    config.params.data.holdout = 0.05
    # The number of bytes to train on; None for all.
    config.params.data.max_bytes = None
    # The number of held-out bytes to evaluate on; None for max_bytes.
    config.params.data.eval_max_bytes = 131_072

    config.optimizer = ConfigDict()
    # The name of any Keras optimizer.
    config.optimizer.name = "adamw"
    # Weight decay: each step subtracts this share of each weight, times the learning rate.
    config.optimizer.weight_decay = 0.1
    # Decay of the mean of squared gradients: shorter than usual, for a short run.
    config.optimizer.beta_2 = 0.98
    # The largest norm of all gradients together; a larger one is scaled down.
    config.optimizer.global_clipnorm = 1.0
    # A number or a schedule; this one rises from 0 to the peak and falls to 0 at the last step.
    config.optimizer.learning_rate = ConfigDict()
    # The schedule's shape: cosine, linear, step, exponential or constant.
    config.optimizer.learning_rate.schedule = "cosine"
    # The highest rate.
    config.optimizer.learning_rate.peak = 1e-3
    # Steps from 0 to the peak.
    config.optimizer.learning_rate.warmup_steps = 100

    # Fields of tfbig.RunConfig; the others keep their defaults.
    config.run = ConfigDict()
    # The seed of weights and shuffles; None chooses a random one. Equal seeds give equal runs.
    config.run.tf_random_seed = 0
    # Steps between two evaluations; None evaluates after each pass over the data.
    config.run.eval_every_steps = 500
    # Steps between two log points.
    config.run.log_step_count_steps = 50

    # The last step: 2 million tokens.
    config.max_steps = 2000
    return config
