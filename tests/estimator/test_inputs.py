"""numpy_input_fn and pandas_input_fn."""

import numpy as np
import pandas as pd
import pytest

from tests.estimator import iris
from tfbig.errors import UserError
from tfbig.estimator.inputs import numpy_input_fn, pandas_input_fn

X = np.arange(10, dtype="float32").reshape(5, 2)
Y = np.arange(5)


def batches(input_fn):
    return list(input_fn().as_numpy_iterator())


def test_arrays_are_read_in_order_and_batches_span_epochs():
    read = batches(numpy_input_fn({"x": X}, Y, batch_size=4, num_epochs=2, shuffle=False))
    assert [labels.tolist() for _, labels in read] == [[0, 1, 2, 3], [4, 0, 1, 2], [3, 4]]
    np.testing.assert_array_equal(read[1][0]["x"], X[[4, 0, 1, 2]])


def test_without_labels_only_features_are_read_and_shuffling_keeps_all_examples():
    read = batches(numpy_input_fn(X, batch_size=5, num_epochs=2, shuffle=True))
    assert [sorted(batch[:, 0]) for batch in read] == [[0, 2, 4, 6, 8]] * 2
    assert any(batch[:, 0].tolist() != [0, 2, 4, 6, 8] for batch in read)


def test_num_epochs_none_repeats_without_end():
    assert numpy_input_fn(X, Y, num_epochs=None, shuffle=True)().cardinality() == -1


def test_columns_of_a_frame_are_features():
    frame = pd.DataFrame({"age": [1.0, 2.0, 3.0], "job": ["a", "b", "c"]}, index=[4, 5, 6])
    labels = pd.Series([0, 1, 0], index=[4, 5, 6])
    ((features, read),) = batches(pandas_input_fn(frame, labels, shuffle=False))
    assert features["age"].tolist() == [1, 2, 3]
    assert features["job"].tolist() == [b"a", b"b", b"c"]
    assert read.tolist() == [0, 1, 0]
    ((_, read),) = batches(pandas_input_fn(frame, frame[["age"]], shuffle=False))
    assert read["age"].tolist() == [1, 2, 3]


def test_an_estimator_trains_on_arrays(tmp_path):
    input_fn = numpy_input_fn({"x": iris.X}, iris.Y, 50, num_epochs=2, shuffle=True)
    estimator = iris.estimator(tmp_path).train(input_fn)
    assert estimator.get_variable_value("global_step") == 6


FRAME = pd.DataFrame({"age": [1.0], "target": [2.0]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: numpy_input_fn(X, Y), "shuffle must be provided and explicitly set as boolean"),
        (lambda: numpy_input_fn(X, Y[:4], shuffle=True), "Length of tensors in x and y is mism"),
        (lambda: numpy_input_fn({}, shuffle=True), "x cannot be an empty dict"),
        (lambda: numpy_input_fn(X, shuffle=True, queue_capacity=5), "queue_capacity=5. is not sup"),
        (lambda: numpy_input_fn(X, shuffle=True, num_threads=2), "num_threads=2. is not supported"),
        (lambda: numpy_input_fn(X, shuffle=True, batch_size=0), "batch_size=0"),
        (lambda: pandas_input_fn(X, shuffle=True), "expected a pandas.DataFrame"),
        (lambda: pandas_input_fn(FRAME, pd.Series([1], [7]), shuffle=True), "Index for x and y"),
        (lambda: pandas_input_fn(FRAME, pd.Series([1]), shuffle=True), "has a column 'target'"),
    ],
)
def test_errors_name_the_invalid_argument(make, message):
    with pytest.raises(UserError, match=message):
        make()
