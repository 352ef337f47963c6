"""Bootstrap intervals and the paired test."""

import math

import numpy as np
import pytest
import scipy.stats

from tfbig.errors import UserError
from tfbig.evaluation.statistics import bootstrap, paired_test
from tfbig.metrics.class_reader import ClassReader
from tfbig.metrics.classification import F1, Accuracy

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, 200)
CHANCES = np.clip(LABELS * 0.3 + 0.35 + RANDOM.normal(size=200) / 4, 0.01, 0.99)


def accuracy(labels, chances):
    return float(np.mean((chances > 0.5) == labels))


def test_the_interval_of_a_mean_matches_its_standard_error():
    labels, guess = np.zeros(400), RANDOM.exponential(size=400)
    interval = bootstrap("mae", labels, guess, samples=2000, task="regression")
    half = 1.96 * guess.std(ddof=1) / math.sqrt(400)
    assert interval.value == pytest.approx(guess.mean())
    assert interval.low == pytest.approx(guess.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(guess.mean() + half, abs=0.15 * half)


def test_the_interval_covers_the_truth_at_its_confidence_level():
    random, covered = np.random.default_rng(1), 0
    for seed in range(200):
        right = random.random(80) < 0.8
        interval = bootstrap(
            "accuracy", right.astype(int), np.ones(80), samples=200, seed=seed, task="binary"
        )
        covered += interval.low <= 0.8 <= interval.high
    assert 180 <= covered <= 198  # 95 % of 200; percentile intervals cover a little less


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_scipy_has_the_same_interval(confidence):
    got = bootstrap("accuracy", LABELS, CHANCES, samples=3000, confidence=confidence)
    right = (CHANCES > 0.5) == LABELS
    expected = scipy.stats.bootstrap(
        (right,), np.mean, confidence_level=confidence, method="percentile", n_resamples=3000, rng=1
    ).confidence_interval
    assert got.low == pytest.approx(expected.low, abs=0.006)
    assert got.high == pytest.approx(expected.high, abs=0.006)


def test_a_name_a_metric_and_a_function_give_the_same_interval():
    binary = ClassReader(binary=True)
    by_name = bootstrap("accuracy", LABELS, CHANCES, samples=50)
    assert bootstrap(Accuracy(binary), LABELS, CHANCES, samples=50) == by_name
    assert bootstrap(accuracy, LABELS, CHANCES, samples=50) == by_name


@pytest.mark.parametrize("name", ["roc_auc", "pr_auc", "f1", "log_loss"])
def test_resampling_by_counts_equals_resampling_the_examples(name):
    from tfbig.metrics.tasks import metrics_for

    def by_examples(labels, chances):
        metric = metrics_for("binary", [name])[0]
        metric.update(labels, chances)
        return metric.result()

    fast = bootstrap(name, LABELS, CHANCES, samples=30)
    slow = bootstrap(by_examples, LABELS, CHANCES, samples=30)
    assert [fast.value, fast.low, fast.high] == pytest.approx(
        [slow.value, slow.low, slow.high], rel=1e-9
    )


def test_the_seed_decides_the_interval():
    first = bootstrap("roc_auc", LABELS, CHANCES, samples=50, seed=3)
    assert bootstrap("roc_auc", LABELS, CHANCES, samples=50, seed=3) == first
    assert bootstrap("roc_auc", LABELS, CHANCES, samples=50, seed=4) != first


def test_examples_of_a_group_are_drawn_together():
    mixed = RANDOM.permutation(400) // 10  # examples of a group are not adjacent
    labels, guess = np.zeros(400), RANDOM.normal(size=40)[mixed]
    groups = [f"patient {i}" for i in mixed]
    ungrouped = bootstrap(lambda y, p: float(p.mean()), labels, guess, samples=500)
    grouped = bootstrap(lambda y, p: float(p.mean()), labels, guess, groups=groups, samples=500)
    ratio = (grouped.high - grouped.low) / (ungrouped.high - ungrouped.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.2)


def test_sequences_are_the_examples_of_a_language_model():
    labels = np.repeat(RANDOM.integers(0, 4, [60, 1]), 8, axis=1)  # tokens of a sequence agree
    logits = np.tile(RANDOM.normal(size=[1, 1, 4]), [60, 8, 1])
    interval = bootstrap("perplexity", labels, logits, samples=300)
    single = bootstrap("perplexity", labels[:, :1], logits[:, :1], samples=300)
    assert [interval.low, interval.high] == pytest.approx([single.low, single.high], rel=1e-9)


def test_resamples_of_one_class_are_left_out_and_counted():
    interval = bootstrap("roc_auc", [0, 0, 1], [0.1, 0.3, 0.2], samples=200)
    assert 40 < interval.undefined < 100  # (2/3)³ + (1/3)³ = a third
    assert 0 <= interval.low <= interval.value == 0.5 <= interval.high <= 1
    nowhere = bootstrap("roc_auc", [1, 1], [0.1, 0.3], samples=10)
    assert math.isnan(nowhere.low)
    assert nowhere.undefined == 10


def test_equal_models_do_not_differ():
    test = paired_test("accuracy", LABELS, CHANCES, CHANCES, samples=100)
    assert (test.difference, test.low, test.high, test.p_value) == (0, 0, 0, 1)


def test_the_difference_is_positive_if_the_first_model_has_the_larger_metric():
    worse = np.where(np.arange(200) % 4 == 0, 1 - CHANCES, CHANCES)
    for name in ("accuracy", "roc_auc"):
        test = paired_test(name, LABELS, CHANCES, worse, samples=400)
        assert 0 < test.low < test.difference < test.high
        assert test.p_value < 0.01
        turned = paired_test(name, LABELS, worse, CHANCES, samples=400)
        assert turned.difference == pytest.approx(-test.difference)
    assert paired_test("log_loss", LABELS, CHANCES, worse, samples=99).difference < 0


def test_the_p_value_is_that_of_the_exact_sign_test():
    # Models disagree on 12 examples, and a is right on 9 of them.
    labels = np.ones(100, int)
    a, b = np.full(100, 0.9), np.full(100, 0.9)
    a[:3], b[3:12] = 0.1, 0.1
    test = paired_test("accuracy", labels, a, b, samples=4000)
    assert test.p_value == pytest.approx(scipy.stats.binomtest(9, 12).pvalue, abs=0.02)


@pytest.mark.slow
def test_without_a_difference_5_percent_of_the_tests_are_significant():
    random, found = np.random.default_rng(2), 0
    for seed in range(200):
        labels = random.integers(0, 2, 60)
        a, b = random.random([2, 60])
        found += paired_test("roc_auc", labels, a, b, samples=99, seed=seed).p_value <= 0.05
    assert 3 <= found <= 19


def test_one_model_may_give_logits():
    logits = np.log(CHANCES / (1 - CHANCES))
    for name in ("accuracy", "log_loss", "roc_auc"):
        test = paired_test(name, LABELS, logits, CHANCES, samples=50)
        assert test.difference == pytest.approx(0, abs=1e-12)
        assert test.p_value == 1
    other = np.clip(CHANCES + RANDOM.normal(size=200) / 9, 0.02, 0.98)  # no ties
    mixed = paired_test("roc_auc", LABELS, logits, other, samples=99)
    assert mixed == paired_test("roc_auc", LABELS, CHANCES, other, samples=99)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(samples=0), "samples=0"),
        (dict(confidence=95), "confidence=95"),
        (dict(groups=[1, 2]), r"groups have shape \[2\]; pass one per example, \[200\]"),
        (dict(metric="confusion_matrix"), "result of confusion_matrix is not a single number"),
        (dict(metric=F1("per_class", ClassReader(binary=True))), "selects one"),
        (dict(metric=3), "metric=3: expected a name"),
        (dict(predictions=CHANCES[:5]), r"shape \[200\] and predictions \[5\]"),
        (dict(labels=[], predictions=[]), "at least one"),
        (dict(metric=accuracy, weights=LABELS), "a function takes none"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    given = dict(metric="accuracy", labels=LABELS, predictions=CHANCES, samples=2) | arguments
    with pytest.raises(UserError, match=message):
        bootstrap(**given)


def test_predictions_of_different_shapes_are_refused():
    with pytest.raises(UserError, match="the same examples and classes"):
        paired_test("accuracy", LABELS, CHANCES, np.stack([CHANCES] * 2, 1))
