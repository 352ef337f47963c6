"""DatasetFeed: stacks of a Dataset's own batches, and its position in a checkpoint.

These tests guard deserialize_iterator and serialize_iterator of tfbig._private_api.
"""

import functools
import logging
import operator
import os
import time

import numpy as np
import pytest
import tensorflow as tf

from tfbig.data.feeds.dataset_feed import DatasetFeed
from tfbig.errors import UserError


def feed_of(dataset, *, multiple=1, steps_per_loop="auto"):
    return DatasetFeed(dataset, multiple=multiple, steps_per_loop=steps_per_loop)


def numbered(length=23, batch_size=5, shuffle=None):
    dataset = tf.data.Dataset.range(length)
    if shuffle:
        dataset = dataset.shuffle(**shuffle)
    return dataset.map(lambda i: ({"x": tf.fill([2], i)}, i * 10)).batch(batch_size)


def labels_of(stack):
    labels = stack.values[1].numpy()
    assert not labels[stack.steps :].any()
    for row, count in zip(labels, stack.counts, strict=True):
        assert not row[count:].any()
    return [labels[i, : stack.counts[i]].tolist() for i in range(stack.steps)]


def read_pass(feed, *sizes):
    """Pulls stacks of these sizes until the pass is over."""
    batches, sizes = [], iter([*sizes, *[feed.capacity] * 100])
    while (stack := feed.pull(len(batches), next(sizes))).steps:
        batches += labels_of(stack)
    return batches


def own_batches(dataset):
    return [labels.numpy().tolist() for _, labels in dataset]


# Stacks


@pytest.mark.parametrize("sizes", [(), (1, 1), (2, 3), (4, 7)])
def test_stacks_hold_the_datasets_own_batches_pass_by_pass(sizes):
    feed = feed_of(numbered())
    for _ in range(3):
        assert read_pass(feed, *sizes) == own_batches(numbered())
        feed.next_pass()
    assert (feed.batch_size, feed.rows, feed.steps_per_pass, feed.infinite) == (5, 5, 5, False)
    assert feed.element_spec == numbered().element_spec


def test_a_stack_has_rows_for_equal_parts_and_every_component_the_same_examples():
    feed = feed_of(numbered(8, 5), multiple=4, steps_per_loop=3)
    stack = feed.pull(0, 3)
    assert (feed.capacity, feed.rows, stack.steps) == (3, 8, 2)
    assert stack.counts.tolist() == [5, 3, 0]
    assert stack.values[1].shape == (3, 8)
    np.testing.assert_array_equal(stack.values[0]["x"] * 10, np.stack([stack.values[1]] * 2, -1))


@pytest.mark.parametrize(("length", "odd"), [(23, 3), (25, None), (5 * 256 + 1, None)])
def test_the_size_of_the_last_batch_is_known_when_it_was_met_and_kept(length, odd):
    feed = feed_of(numbered(length))
    assert feed.pull(0, 3).steps == 3
    assert feed.tail_size is None
    read_pass(feed)
    assert feed.tail_size == odd
    later = feed_of(numbered(length))
    later.restore_position(feed.position())
    assert later.tail_size == odd
    feed.next_pass()
    assert feed.tail_size == odd


def test_a_first_smaller_batch_ends_its_stack_and_later_ones_do_not():
    feed = feed_of(numbered().repeat())  # batches of 5, 5, 5, 5, 3, 5, …
    first, second = feed.pull(0, 12), feed.pull(5, 12)
    assert (first.steps, second.steps, feed.tail_size) == (5, 12, 3)
    assert labels_of(first) + labels_of(second) == own_batches(numbered().repeat(4))[:17]


def test_a_pull_takes_no_more_batches_than_it_is_asked_for():
    taken = []

    def note(i):
        taken.append(int(i))
        return i

    def noted(i):
        return tf.numpy_function(note, [i], tf.int64)

    dataset = tf.data.Dataset.range(1000).batch(2, drop_remainder=True)
    feed = feed_of(dataset.map(lambda x: (x, tf.ensure_shape(noted(x[0]) + x, [2]))))
    assert feed.pull(0, 3).counts[:3].tolist() == [2, 2, 2]
    assert feed.pull(3, 1).values[1][0].numpy().tolist() == [12, 13]
    assert len(taken) < 100  # the rest is the Dataset's own prefetching


def test_a_shuffled_dataset_is_read_in_its_own_order_anew_in_each_pass():
    shuffle = dict(buffer_size=23, seed=3)
    feed, reference = feed_of(numbered(shuffle=shuffle)), numbered(shuffle=shuffle)
    passes = []
    for _ in range(3):
        passes.append(read_pass(feed))
        assert passes[-1] == own_batches(reference)
        feed.next_pass()
    assert passes[0] != passes[1] != passes[2]


def test_the_batch_size_is_known_without_reading_when_the_remainder_is_dropped():
    feed = feed_of(numbered(23, 5).unbatch().batch(5, drop_remainder=True))
    assert feed.batch_size == 5
    assert [len(labels) for labels in read_pass(feed)] == [5, 5, 5, 5]


def test_the_length_of_a_filtered_dataset_is_not_known_and_an_infinite_one_is_infinite():
    filtered = feed_of(tf.data.Dataset.range(9).filter(lambda i: i > 2).batch(2))
    assert (filtered.steps_per_pass, filtered.infinite) == (None, False)
    infinite = feed_of(tf.data.Dataset.range(9).batch(2).repeat())
    assert (infinite.steps_per_pass, infinite.infinite) == (None, True)


def test_batches_of_varying_shape_come_one_by_one():
    lengths = [2, 4, 3, 1, 5]
    dataset = tf.data.Dataset.from_tensor_slices(lengths).map(lambda n: (tf.range(n), n))
    feed = feed_of(dataset.padded_batch(2))
    assert (feed.static, feed.capacity, feed.batch_size) == (False, 1, 2)
    stacks = [feed.pull(step, 1) for step in range(4)]
    assert [s.steps for s in stacks] == [1, 1, 1, 0]
    assert [s.counts.tolist() for s in stacks] == [[2], [2], [1], [0]]
    assert [tuple(s.values[0].shape) for s in stacks[:3]] == [(1, 2, 4), (1, 2, 3), (1, 1, 5)]


def test_other_types_than_numbers_are_stacked_too():
    dataset = tf.data.Dataset.from_tensor_slices((["a", "b", "c"], [True, False, True])).batch(2)
    stack = feed_of(dataset).pull(0, 2)
    assert stack.values[0].numpy()[:2].tolist() == [[b"a", b"b"], [b"c", b""]]
    assert stack.values[1].numpy()[:2].tolist() == [[True, False], [True, False]]


# The position


def save(feed, directory):
    path = tf.train.Checkpoint(**feed.trackables()).write(str(directory / "state"))
    return path, feed.position()


def resume(dataset, path, position):
    feed = feed_of(dataset)
    feed.restore_position(position)
    tf.train.Checkpoint(**feed.trackables()).read(path).assert_existing_objects_matched()
    return feed


def rest_of_run(feed):
    batches = []
    for _ in range(3):
        batches.append(read_pass(feed))
        feed.next_pass()
    return batches


@pytest.mark.parametrize("shuffle", [None, dict(buffer_size=9), dict(buffer_size=23, seed=3)])
@pytest.mark.parametrize(("passes", "steps"), [(0, 0), (0, 3), (0, 5), (2, 0), (2, 2)])
def test_a_restored_iterator_goes_on_with_the_batches_that_would_have_come(
    tmp_path, shuffle, passes, steps
):
    tf.random.set_seed(11)  # as a run does before it calls input_fn
    feed = feed_of(numbered(shuffle=shuffle))
    for _ in range(passes):
        read_pass(feed)
        feed.next_pass()
    if steps:
        feed.pull(0, steps)
    kept = save(feed, tmp_path)
    tf.random.set_seed(11)
    other = resume(numbered(shuffle=shuffle), *kept)
    assert (other.batch_size, other.rows) == (5, 5)
    assert rest_of_run(other) == rest_of_run(feed)


@pytest.mark.parametrize("passes", [0, 2])
def test_later_passes_are_the_same_if_prefetching_had_read_all_before_the_checkpoint(
    tmp_path, passes
):
    def data():
        tf.random.set_seed(11)
        read = numbered().unbatch().map(lambda *x: (finished.assign_add(1), x)[1])
        return read.shuffle(9).batch(5).prefetch(100)

    finished = tf.Variable(0)
    feed = feed_of(data())
    for _ in range(passes):
        read_pass(feed)
        feed.next_pass()
    feed.pull(0, 2)
    deadline = time.monotonic() + 20
    while finished.numpy() < 23 * (passes + 1) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # from the last example to the end that comes after it
    kept = save(feed, tmp_path)
    other = resume(data(), *kept)
    assert rest_of_run(other) == rest_of_run(feed)


def test_a_batch_that_was_read_to_learn_its_size_is_not_lost_by_a_checkpoint(tmp_path):
    kept = save(feed_of(numbered()), tmp_path)
    assert read_pass(resume(numbered(), *kept)) == own_batches(numbered())


def test_a_position_is_kept_again_after_resuming(tmp_path):
    shuffle = dict(buffer_size=9)
    feed = feed_of(numbered(shuffle=shuffle))
    first = labels_of(feed.pull(0, 1))
    second = resume(numbered(shuffle=shuffle), *save(feed, tmp_path))
    first += labels_of(second.pull(1, 2))
    third = resume(numbered(shuffle=shuffle), *save(second, tmp_path))
    assert third.position()["in_pass"] == 3
    first += read_pass(third)
    assert sorted(functools.reduce(operator.iadd, first, [])) == [10 * i for i in range(23)]


def from_generator(order=(range(23), range(23))):
    calls = iter(order)

    def generate():
        for i in next(calls, range(23)):
            yield [i, i], i * 10

    signature = (tf.TensorSpec([2], tf.int64), tf.TensorSpec([], tf.int64))
    return tf.data.Dataset.from_generator(generate, output_signature=signature).batch(5)


def test_a_generator_dataset_is_skipped_on_resume_and_the_log_names_the_op(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "tfbig"):
        feed = feed_of(from_generator())
    (line,) = caplog.messages
    assert line.startswith("the Dataset's position cannot be saved in checkpoints (PyFunc is state")
    assert not feed.keepable
    feed.pull(0, 3)
    path, position = save(feed, tmp_path)
    caplog.clear()
    with caplog.at_level(logging.INFO, "tfbig"):
        other = resume(from_generator(), path, position)
    assert "0 whole passes and 3 batches are skipped" in caplog.messages[-1]
    assert read_pass(other) == read_pass(feed) == own_batches(numbered())[3:]
    assert other.trackables() == {}


def test_passes_of_a_generator_dataset_are_read_again_so_that_the_next_is_the_same():
    orders = (range(7), range(7, 16), range(23, 46))
    feed = feed_of(from_generator(orders))
    for _ in range(2):
        read_pass(feed)
        feed.next_pass()
    feed.pull(0, 1)
    other = feed_of(from_generator(orders))
    other.restore_position(feed.position())
    assert read_pass(other) == read_pass(feed)
    assert feed.position() == other.position()


def test_a_new_run_says_nothing_about_skipping(caplog):
    with caplog.at_level(logging.INFO, "tfbig"):
        feed_of(numbered()).pull(0, 3)
    assert caplog.messages == []


def test_a_checkpoint_without_an_iterator_fits_a_dataset_that_could_keep_one(tmp_path):
    feed = feed_of(from_generator())
    feed.pull(0, 3)
    other = resume(numbered(), *save(feed, tmp_path))
    assert read_pass(other) == own_batches(numbered())[3:]
    assert list(other.trackables()) == ["iterator"]  # from here on it is kept


@pytest.mark.parametrize("make", [numbered, from_generator])
def test_a_second_checkpoint_can_be_gone_to_when_the_newest_turns_out_damaged(tmp_path, make):
    feed = feed_of(make())
    feed.pull(0, 2)
    path, position = save(feed, tmp_path)
    rest = read_pass(feed)
    other = feed_of(make())
    other.restore_position({"passes": 1, "in_pass": 4, "kept": position["kept"]})
    other.restore_position(position)
    tf.train.Checkpoint(**other.trackables()).read(path).assert_existing_objects_matched()
    assert read_pass(other) == rest


# Bad data, each one line


def error_of(dataset, steps=3):
    with pytest.raises(UserError) as caught:
        feed = feed_of(dataset)
        feed.pull(0, steps)
        feed.next_pass()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "dataset",
    [
        tf.data.Dataset.range(0).batch(2),
        tf.data.Dataset.range(5).filter(lambda i: i > 9).batch(2),
        tf.data.Dataset.range(5).batch(8, drop_remainder=True),
        tf.data.Dataset.range(5).filter(lambda i: i > 1).batch(8, drop_remainder=True),
    ],
)
def test_an_empty_dataset_is_refused(dataset):
    assert error_of(dataset).startswith("the Dataset is empty: it has no batch. Che")


def generated(batches, signature):
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)


FLOATS = tf.TensorSpec([None, 2], tf.float32)


def test_a_batch_that_grows_is_refused_with_both_sizes():
    dataset = generated([np.zeros([n, 2], np.float32) for n in (3, 3, 4)], FLOATS)
    assert error_of(dataset) == (
        "a batch is larger than the first one (4 examples after 3); batches may be smaller, not "
        "larger: use one global batch size for the whole Dataset."
    )


def test_components_with_different_numbers_of_rows_are_refused():
    rows = tf.data.Dataset.from_tensors((tf.zeros([4, 3]), tf.zeros([3])))
    batches = [(np.zeros([4, 2], np.float32), np.zeros([n], np.float32)) for n in (4, 2)]
    labels = tf.TensorSpec([None], tf.float32)
    pairs = generated(batches, (FLOATS, labels))
    unknown = generated(batches[1:], (tf.TensorSpec([None, None], tf.float32), labels))
    for dataset in (rows, pairs, unknown):
        assert error_of(dataset).startswith("the components of a batch have different numbers ")


def test_features_that_change_their_shape_or_structure_are_refused():
    for batch in (np.zeros([3, 5], np.float32), {"x": np.zeros([3, 2], np.float32)}):
        dataset = generated([np.zeros([3, 2], np.float32), batch], FLOATS)
        said = error_of(dataset)
        assert said.startswith("the Dataset failed while a batch was read; does the structure or ")
        assert "TensorFlow says: TypeError: `generator` yielded an element" in said


def test_another_failure_of_the_dataset_is_passed_on_with_tensorflows_words(tmp_path):
    missing = str(tmp_path / "absent.tfrecord")
    said = error_of(tf.data.TFRecordDataset(missing).batch(2))
    assert said.startswith("the Dataset failed while a batch was read. TensorFlow says: ")
    assert said.split("says: ")[1].startswith(missing)


def test_ragged_and_sparse_components_are_refused_by_name():
    ragged = tf.data.Dataset.from_tensors({"words": tf.ragged.constant([[1], [2, 3]])})
    assert error_of(ragged) == (
        "the Dataset's component words is a RaggedTensorSpec, which cannot be stacked; make it "
        "dense, for example with .map(lambda x: x.to_tensor())."
    )
    sparse = tf.data.Dataset.from_tensors(({"ids": tf.sparse.eye(3)}, [1, 2, 3]))
    assert "component 0/ids is a SparseTensorSpec" in error_of(sparse)


def test_a_dataset_that_is_not_batched_is_refused():
    unbatched = tf.data.Dataset.from_tensor_slices((np.zeros([4, 3]), np.zeros([4])))
    assert error_of(unbatched) == (
        "the Dataset's component 1 has no batch dimension; use dataset.batch(64), where 64 is "
        "the global batch size."
    )
    shapeless = generated([np.zeros([3])], tf.TensorSpec(None, tf.float32))
    assert error_of(shapeless).startswith("the Dataset's component has unknown rank; use data")


@pytest.mark.parametrize("own", [None, True, False])
def test_autotune_is_the_number_of_cores_unless_the_dataset_has_its_own_option(own, monkeypatch):
    told, iterate = [], tf.data.Dataset.__iter__

    record = lambda dataset: told.append(dataset.options().autotune) or iterate(dataset)  # noqa: E731
    monkeypatch.setattr(tf.data.Dataset, "__iter__", record)
    options = tf.data.Options()
    if own is not None:
        options.autotune.enabled = own
    dataset = tf.data.Dataset.range(8).batch(2).with_options(options)
    feed_of(dataset).close()
    assert [o.enabled for o in told] == [own or False]
    assert told[0].initial_parallelism == (os.cpu_count() if own is None else None)
