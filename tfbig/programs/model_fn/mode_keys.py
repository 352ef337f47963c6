"""The modes that a model_fn is called in."""


class ModeKeys:
    """The mode a model_fn is called in, with tf.estimator's values."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "infer"
