"""From a script of TF1 or tf.estimator to one of tfbig: what `tfbig migrate` does."""

from tfbig._optional import check

check("libcst", "tfbig migrate")
