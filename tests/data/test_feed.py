"""What all feeds share: the sizes of stacks."""

import pytest
import tensorflow as tf

from tfbig.data.feeds.feed import capacity_for, rows_for


@pytest.mark.parametrize(
    ("batch_size", "multiple", "rows"),
    [(64, 1, 64), (64, 4, 64), (65, 4, 68), (3, 8, 8), (1, 1, 1)],
)
def test_rows_are_the_batch_size_rounded_up_to_equal_parts(batch_size, multiple, rows):
    assert rows_for(batch_size, multiple) == rows


def test_a_capacity_that_was_asked_for_is_kept_and_an_automatic_one_fits_32_mib():
    spec = (tf.TensorSpec([None, 1024, 1024], tf.float32), tf.TensorSpec([None], tf.int32))
    assert capacity_for(spec, 64, 7) == 7
    assert capacity_for(spec, 64, "auto") == 1
    assert capacity_for(spec, 1, "auto") == 7  # 8 would be 32 MiB and the labels
    assert capacity_for(spec[1], 64, "auto") == 100
