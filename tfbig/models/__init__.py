"""Ready-made model builders, each `build(params) -> compiled keras.Model`: mlp, cnn, transformer_lm.

A builder takes a dict or ConfigDict of its own names, refuses names that it does not know, and
leaves `data` to the input_fn. It compiles with Adam; a config's `optimizer` takes its place.
"""
