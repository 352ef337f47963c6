"""From a script of TF1 or tf.estimator to one of tfbig: what `tfbig migrate` does."""
