"""Migration of scripts from TF1 or tf.estimator to tfbig, for `tfbig migrate`."""

from tfbig._optional import check

check("libcst", "tfbig migrate")
