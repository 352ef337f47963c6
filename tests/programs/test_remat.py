"""Recomputing the blocks of a model changes what is stored, not what is computed.

These tests guard functional_graph, layer_contexts, replaced_graph_run, set_keras_mask and sublayers
of tfbig._private_api.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfbig
from tests.programs.batches import batch, build, classes, x
from tfbig.errors import UserError
from tfbig.layers.batch_position import batch_position_scope
from tfbig.programs.keras.keras_program import KerasProgram


@pytest.fixture(autouse=True)
def same_weights_in_every_run():
    keras.utils.set_random_seed(1)


def computed(program: KerasProgram, batch, *, jit: bool = False) -> dict:
    """Loss terms, gradients and new state of a training batch, and the operations in the graph."""

    @tf.function(jit_compile=jit, autograph=False)
    def run(values):
        with tf.GradientTape() as tape:
            tape.watch(values.trainable)
            with batch_position_scope(tf.constant(3, tf.int64), tf.constant(5), tf.constant(6)):
                forward = program.forward(values, batch, training=True)
            terms = [tf.cast(term.total, tf.float32) for term in forward.terms]
            loss = tf.add_n(terms)
        gradients = [
            None if g is None else tf.convert_to_tensor(g)  # an embedding's come as slices
            for g in tape.gradient(loss, values.trainable)
        ]
        return dict(terms=terms, gradients=gradients, state=forward.state)

    with program.tracing():
        found = run(program.read())
        graph = run.get_concrete_function(program.read()).graph
    names = [op.type for op in graph.get_operations()]
    return {
        **{
            key: [None if v is None else np.asarray(tf.cast(v, tf.float64)) for v in values]
            for key, values in found.items()
        },
        "types": {name: names.count(name) for name in set(names)},
    }


def programs(model: keras.Model, *element) -> list[KerasProgram]:
    """Without and with recomputation, of one model."""
    made = [KerasProgram(model, remat=remat) for remat in (False, True)]
    for program in made:
        build(program, *element)
    return made


def assert_same_numbers(model, *element, jit: bool = False, close: float = 1e-5) -> tuple:
    plain, again = (computed(p, batch(*element), jit=jit) for p in programs(model, *element))
    for key in ("terms", "gradients", "state"):
        assert len(plain[key]) == len(again[key])
        for mine, other in zip(again[key], plain[key], strict=True):
            assert (mine is None) == (other is None)
            if mine is not None:
                largest = np.max(np.abs(other), initial=1)  # XLA adds up in another order
                np.testing.assert_allclose(mine, other, rtol=0, atol=close * largest)
    assert any(g is not None and np.any(g) for g in plain["gradients"])
    return plain, again


def compiled(model: keras.Model, loss="mse") -> keras.Model:
    model.compile("sgd", loss)
    return model


class Counted(layers.Layer):
    """Counts how often it is traced; `units` of a Dense inside."""

    def __init__(self, units: int):
        super().__init__()
        self.dense, self.calls = layers.Dense(units), 0

    def call(self, x):
        self.calls += 1
        return ops.tanh(self.dense(x))


TOKENS = np.random.RandomState(3).randint(0, 9, (6, 5)).astype("int32")


def lm(drop) -> keras.Model:
    tokens = keras.Input((5,), dtype="int32")
    h = layers.Embedding(9, 8)(tokens)
    for _ in range(3):
        y = layers.MultiHeadAttention(2, 4, dropout=0.1)(h, h)
        h = layers.Add()([h, drop(0.3)(y)])
        y = layers.Dense(8)(layers.Dense(16, activation="gelu")(layers.LayerNormalization()(h)))
        h = layers.Add()([h, drop(0.3)(y)])
    return compiled(keras.Model(tokens, layers.Dense(9)(h)), crossentropy())


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("drop", [layers.Dropout, tfbig.layers.Dropout])
def test_dropout_draws_the_same_masks_again_and_its_generators_move_on_once(drop, jit):
    plain, again = assert_same_numbers(lm(drop), TOKENS, TOKENS, jit=jit)
    draws = [name for name in plain["types"] if name.startswith("StatelessRandom")]
    assert draws
    assert all(again["types"][d] > plain["types"][d] for d in draws)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_moving_statistics_are_updated_once(jit):
    h = inputs = keras.Input((8, 8, 2))
    for _ in range(4):
        h = layers.Conv2D(4, 3, padding="same", use_bias=False)(h)
        h = layers.ReLU()(layers.BatchNormalization(momentum=0.5)(h))
    h = layers.GlobalAveragePooling2D()(h)
    model = compiled(keras.Model(inputs, layers.Dense(3)(h)), crossentropy())
    _, again = assert_same_numbers(model, x(8, 8, 2), classes(), jit=jit)
    assert any(
        np.any(new != old)
        for new, old in zip(again["state"], model.non_trainable_variables, strict=True)
    )


def test_added_losses_and_regularizers_count_once():
    class Adds(layers.Layer):
        def call(self, x):
            self.add_loss(0.1 * ops.mean(x**2))
            return x

    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, kernel_regularizer="l2"), Adds(),
         layers.Dense(8, activity_regularizer="l2"), layers.Dense(8), Adds(), layers.Dense(1)]
    )  # fmt: skip
    _, again = assert_same_numbers(compiled(model), x(4), x(1))
    assert len(again["terms"]) == 1 + 1 + 1 + 2


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_weights_are_cast_as_in_the_first_computation(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = lm(layers.Dropout)
        body = Body()
    finally:
        keras.config.set_dtype_policy("float32")
    assert_same_numbers(model, TOKENS, TOKENS, close=1e-3)
    assert_same_numbers(compiled(body), x(4), x(4), close=1e-3)


@pytest.mark.slow
def test_masks_go_through_the_cuts():
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), layers.Embedding(9, 4, mask_zero=True),
         layers.GRU(4, return_sequences=True), layers.Dropout(0.5), layers.LayerNormalization(),
         layers.GRU(4, return_sequences=True), layers.GlobalAveragePooling1D(), layers.Dense(3)]
    )  # fmt: skip
    assert_same_numbers(compiled(model, crossentropy()), TOKENS, classes())
    tagger = keras.Model(model.inputs, model.layers[2].output)
    assert_same_numbers(compiled(tagger, crossentropy()), TOKENS, TOKENS % 4)


def test_masks_that_tensors_carry_into_and_out_of_blocks_are_kept():
    class Holds(layers.Layer):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):  # has no argument for the mask that x carries
            return self.inner(x)

    class Tagger(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = Holds(layers.Embedding(9, 4, mask_zero=True))
            self.gru = Holds(layers.GRU(4, return_sequences=True))
            self.mean = layers.GlobalAveragePooling1D()

        def call(self, tokens):
            return self.mean(self.gru(self.embedding(tokens)))

    assert np.any(TOKENS == 0)
    assert_same_numbers(compiled(Tagger(), crossentropy()), TOKENS, TOKENS[:, 0] % 4)


def test_graphs_with_long_connections_and_several_inputs_and_outputs_are_divided():
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    down, h = [], layers.Concatenate()([first, second])
    for _ in range(12):
        h = layers.Dense(6, activation="tanh")(h)
        down.append(h)
    for skip in reversed(down):
        h = layers.Dense(6, activation="tanh")(layers.Concatenate()([h, skip]))
    out = {"a": layers.Dense(1, name="a")(h), "b": layers.Dense(1, name="b")(down[0])}
    model = compiled(keras.Model([first, second], out), {"a": "mse", "b": "mae"})
    plain, again = assert_same_numbers(model, (x(4), x(4, seed=1)), {"a": x(1), "b": x(1, seed=2)})
    assert again["types"]["Tanh"] > plain["types"]["Tanh"]


def test_a_nested_model_is_divided_and_shared_layers_are_trained():
    shared = Counted(4)
    backbone = keras.Sequential(
        [keras.Input((4,)), *[layers.Dense(4, activation="tanh") for _ in range(6)], shared]
    )
    inputs = keras.Input((4,))
    h = shared(backbone(inputs))
    model = compiled(keras.Model(inputs, layers.Dense(1)(backbone(h))))
    assert_same_numbers(model, x(4), x(1))


def test_a_block_is_traced_twice_and_the_last_one_once():
    blocks = [Counted(4) for _ in range(4)]
    model = compiled(keras.Sequential([keras.Input((4,)), *blocks]))
    _, program = programs(model, x(4), x(4))
    before = [block.calls for block in blocks]
    computed(program, batch(x(4), x(4)))
    assert [b.calls - n for b, n in zip(blocks, before, strict=True)] == [2, 2, 1, 1]


def test_frozen_layers_get_no_gradient_and_are_not_recomputed_below_what_is_trained():
    frozen = [layers.Dense(4, trainable=False) for _ in range(6)]
    model = keras.Sequential(
        [keras.Input((4,)), *frozen, layers.Dense(4), *[layers.Dense(4) for _ in range(5)]]
    )
    plain, again = assert_same_numbers(compiled(model), x(4), x(4))
    # 12 forward, 6 gradients of weights, 5 of activations; 3 blocks of 4, the last kept, of which
    # the first is all frozen and the second is half.
    assert plain["types"]["MatMul"] == 12 + 6 + 5
    assert again["types"]["MatMul"] == plain["types"]["MatMul"] + 4


class Body(keras.Model):
    """Hands its layers keywords, nested structures, masks and nothing."""

    class Inner(layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_masking = True
            self.dense, self.drop = layers.Dense(4), layers.Dropout(0.5)

        def call(self, pair, *, scale=1.0, bias=None, mask=None):  # no argument `training`
            a, b = pair["a"], pair["b"]
            h = self.drop(ops.tanh(self.dense(a))) * scale + b
            if mask is not None and mask["a"] is not None:
                h = h * ops.cast(mask["a"], h.dtype)
            return (h if bias is None else h + bias), {"b": b}

    def __init__(self):
        super().__init__()
        self.blocks = [self.Inner() for _ in range(3)]
        self.masking = layers.Masking(0.1)
        self.out = layers.Dense(4)

    def call(self, x, training=False):
        a, b = x, x
        for block in self.blocks:
            a, rest = block({"a": a, "b": b}, scale=0.5, bias=b)
            a, _ = block({"a": a, "b": rest["b"]})
            b = rest["b"]
        return self.out(a)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_the_layers_of_a_subclassed_model_are_its_blocks(jit):
    model = compiled(Body())
    plain, again = assert_same_numbers(model, x(4), x(4), jit=jit)
    assert again["types"]["Tanh"] == 2 * plain["types"]["Tanh"] == 12


def test_layers_with_adapters_are_blocks_too():
    model = compiled(Body())
    model(x(4))
    model.out.enable_lora(2)
    for block in model.blocks:
        block.dense.enable_lora(2)
    for inner in (model.out, *(block.dense for block in model.blocks)):
        factors = [w for w in inner.weights if "lora" in w.name]
        for weight in factors:
            weight.assign(x(*weight.shape)[0])
    assert_same_numbers(compiled(model), x(4), x(4))
    assert "call" not in vars(model.out)


def test_a_layer_that_holds_a_stack_of_blocks_is_no_block():
    class Stack(layers.Layer):
        def __init__(self):
            super().__init__()
            self.blocks = [Counted(4) for _ in range(3)]

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    class Whole(keras.Model):
        def __init__(self):
            super().__init__()
            self.stack, self.out = Stack(), layers.Dense(1)

        def call(self, x):
            return self.out(self.stack(x))

    model = compiled(Whole())
    plain, again = assert_same_numbers(model, x(4), x(1))
    assert again["types"]["Tanh"] == 2 * plain["types"]["Tanh"]


def test_a_block_that_uses_what_it_was_not_given_is_refused():
    class Peeks(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(4), Sees()

        def call(self, x):
            self.second.seen = self.first(x)
            return self.second(x)

    class Sees(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(4,), initializer="ones")

        def call(self, x):
            return x + self.scale * self.seen

    model = compiled(Peeks())
    _, program = programs(model, x(4), x(4))
    with pytest.raises(UserError, match="sees uses .* pass it as an argument"):
        computed(program, batch(x(4), x(4)))


def test_a_block_with_an_unknown_structure_is_refused():
    class Box:
        def __init__(self, value):
            self.value = value

    class Boxes(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = Opens()

        def call(self, x):
            return self.dense(x, box=Box(x))

    class Opens(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(4,), initializer="ones")

        def call(self, x, box=None):
            return self.scale * box.value

    _, program = programs(compiled(Boxes()), x(4), x(4))
    with pytest.raises(UserError, match="opens takes or returns a Box"):
        computed(program, batch(x(4), x(4)))


def test_a_model_without_blocks_is_refused():
    model = compiled(keras.Sequential([keras.Input((4,)), layers.Dense(1)]))
    with pytest.raises(UserError, match="cannot be divided into blocks; leave remat out"):
        programs(model, x(4), x(1))


def test_nothing_of_it_stays_in_the_model_and_evaluation_is_as_before():
    for model in (Body(), lm(layers.Dropout)):
        element = (x(4), x(4)) if isinstance(model, Body) else (TOKENS, TOKENS)
        _, program = programs(compiled(model, model.loss or "mse"), *element)
        before = [dict(vars(layer)) for layer in model.layers]
        with program.tracing():
            program.forward(program.read(), batch(*element), training=False)
        after = [vars(layer) for layer in model.layers]
        assert [set(a) for a in after] == [set(b) for b in before]
        assert all("call" not in a and "_run_through_graph" not in a for a in [*after, vars(model)])
