"""A decoder-only Transformer language model over bytes."""

import math
from typing import Any

import keras
from keras import ops
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.metrics.bits_per_byte import BitsPerByte
from tfbig.params import read_params

_DEFAULTS = {
    "vocabulary_size": 256,
    "sequence_length": 128,
    "layers": 4,
    "width": 256,
    "heads": 4,
    "mlp_ratio": 4,
    "dropout": 0.0,
    "tied_embedding": True,
}


def build(params: Any = None) -> keras.Model:
    """Builds a compiled language model: int tokens [batch, T] to logits [batch, T, vocabulary].

    It has pre-norm blocks (Xiong et al., 2020, https://arxiv.org/abs/2002.04745), learned
    positions and the initial weights of GPT-2. The default has 3.3 million parameters.

    Example:

        model = tfbig.models.transformer_lm.build({"layers": 2, "width": 128})

    Args:
        params: `vocabulary_size` (default 256, bytes); `sequence_length`, the longest input
            (default 128); `layers` (default 4); `width` of the residual stream (default 256);
            `heads`, a divisor of the width (default 4); `mlp_ratio`, the width of the MLP divided
            by that of the stream (default 4); `dropout` (default 0); `tied_embedding`: whether the
            output uses the embedding's weights (default True).

    Returns:
        A keras.Model compiled with Adam, sparse categorical cross-entropy and bits per byte.
        Its logits are float32, with a mixed precision policy too.

    Raises:
        UserError: params has an unknown name, or heads does not divide width.
    """
    p = read_params(params, _DEFAULTS, owner="tfbig.models.transformer_lm.build", ignore=("data",))
    width, dropout = p["width"], p["dropout"]
    # Each layer adds two outputs to the residual stream, whose variance would grow with the depth.
    residual_scale = 1 / math.sqrt(2 * p["layers"])

    embedding = keras.layers.ReversibleEmbedding(
        p["vocabulary_size"],
        width,
        tie_weights=p["tied_embedding"],
        embeddings_initializer=_normal(),
        dtype="float32",
        name="embedding",
    )
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = LearnedPositions(p["sequence_length"], name="positions")(embedding(tokens))
    x = _dropout(x, dropout)
    for i in range(p["layers"]):
        y = keras.layers.LayerNormalization(epsilon=1e-5, name=f"block_{i}_attention_norm")(x)
        y = CausalSelfAttention(
            p["heads"], residual_scale=residual_scale, name=f"block_{i}_attention"
        )(y)
        x = keras.layers.Add(name=f"block_{i}_attention_add")([x, _dropout(y, dropout)])
        y = keras.layers.LayerNormalization(epsilon=1e-5, name=f"block_{i}_mlp_norm")(x)
        y = keras.layers.Dense(
            int(p["mlp_ratio"] * width),
            activation=gelu,
            kernel_initializer=_normal(),
            name=f"block_{i}_mlp_in",
        )(y)
        y = keras.layers.Dense(
            width, kernel_initializer=_normal(residual_scale), name=f"block_{i}_mlp_out"
        )(y)
        x = keras.layers.Add(name=f"block_{i}_mlp_add")([x, _dropout(y, dropout)])
    x = keras.layers.LayerNormalization(epsilon=1e-5, name="final_norm")(x)
    model = keras.Model(tokens, embedding(x, reverse=True), name="transformer_lm")
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # With another vocabulary, a token is not a byte.
        metrics=[BitsPerByte(f"bits_per_{'byte' if p['vocabulary_size'] == 256 else 'token'}")],
    )
    return model


@keras.saving.register_keras_serializable("tfbig")
def gelu(x: Any) -> Any:
    """GELU in its tanh approximation, which is cheaper: https://arxiv.org/abs/1606.08415."""
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable("tfbig")
class LearnedPositions(keras.layers.Layer):
    """Adds a learned vector for each position to embeddings of shape [batch, T, width].

    Example: `LearnedPositions(128)(embeddings)`.

    Args:
        sequence_length: the largest T.

    Raises:
        UserError: T is larger.
    """

    def __init__(self, sequence_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sequence_length = sequence_length

    @override
    def build(self, input_shape: Any) -> None:
        self.positions = self.add_weight(
            shape=(self.sequence_length, input_shape[-1]), initializer=_normal(), name="positions"
        )

    @override
    def call(self, x: Any) -> Any:
        length = x.shape[1]
        if length is not None and length > self.sequence_length:
            raise UserError(
                f"{self.name}: received sequences of {length} tokens, but the model was built for "
                f"{self.sequence_length}; build it with params.sequence_length={length}."
            )
        return x + self.positions[: ops.shape(x)[1]]

    @override
    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    @override
    def get_config(self) -> dict:
        return {**super().get_config(), "sequence_length": self.sequence_length}


@keras.saving.register_keras_serializable("tfbig")
class CausalSelfAttention(keras.layers.Layer):
    """Multi-head self-attention in which a position attends to itself and earlier positions.

    One matrix multiplication computes queries, keys and values. With XLA on a CPU, a step of the
    default model takes a tenth less time than with keras.layers.MultiHeadAttention. Vaswani et
    al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762.

    Example: `CausalSelfAttention(heads=4)(x)`, x of shape [batch, T, width].

    Args:
        heads: number of heads, a divisor of the width.
        residual_scale: factor of the initial weights of the output projection.

    Raises:
        UserError: heads does not divide the width.
    """

    def __init__(self, heads: int, residual_scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.residual_scale = residual_scale

    @override
    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        if self.heads < 1 or width % self.heads:
            raise UserError(
                f"{self.name}: heads={self.heads} does not divide width={width}; "
                "choose a width that is a multiple of the heads."
            )
        self.qkv = keras.layers.Dense(
            3 * width, kernel_initializer=_normal(), dtype=self.dtype_policy, name="qkv"
        )
        self.qkv.build(input_shape)
        self.out = keras.layers.Dense(
            width,
            kernel_initializer=_normal(self.residual_scale),
            dtype=self.dtype_policy,
            name="out",
        )
        self.out.build(input_shape)

    @override
    def call(self, x: Any) -> Any:
        length, width = ops.shape(x)[1], x.shape[-1]
        qkv = ops.reshape(self.qkv(x), (-1, length, 3, self.heads, width // self.heads))
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        query = query * (width // self.heads) ** -0.5
        # float32 for any policy: float16 has no -1e9, and a sum of exponentials needs precision.
        scores = ops.cast(ops.einsum("bthd,bshd->bhts", query, key), "float32")
        position = ops.arange(length)
        hidden = ops.cast(position[:, None] < position[None, :], "float32")
        weights = ops.softmax(scores + hidden * -1e9, axis=-1)
        mixed = ops.einsum("bhts,bshd->bthd", ops.cast(weights, self.compute_dtype), value)
        return self.out(ops.reshape(mixed, (-1, length, width)))

    @override
    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    @override
    def get_config(self) -> dict:
        config = {"heads": self.heads, "residual_scale": self.residual_scale}
        return {**super().get_config(), **config}


def _normal(scale: float = 1.0) -> keras.initializers.Initializer:
    # A new one for each weight, because an initializer returns the same values on every call.
    return keras.initializers.RandomNormal(stddev=0.02 * scale)


def _dropout(x: Any, rate: float) -> Any:
    return keras.layers.Dropout(rate)(x) if rate else x
