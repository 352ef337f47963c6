"""What an evaluator finds reaches the chief, each thing once."""

from tfbig.training.evaluation.found_elsewhere import Evaluations


def test_each_evaluation_is_news_once(tmp_path):
    written, read = Evaluations(str(tmp_path)), Evaluations(str(tmp_path))
    assert read.read_new() == []
    written.add(10, {"loss": 0.5})
    written.add(20, {"loss": 0.25, "accuracy": 1.0})
    both = [(10, {"loss": 0.5}), (20, {"loss": 0.25, "accuracy": 1.0})]
    assert (read.read_new(), read.returned) == (both, 2)
    assert read.read_new() == []
    written.add(30, {"loss": 0.125})
    assert read.read_new() == [(30, {"loss": 0.125})]
    assert read.read()[:2] == both


def test_a_line_that_is_being_written_is_left_for_later(tmp_path):
    evaluations = Evaluations(str(tmp_path))
    evaluations.add(10, {"loss": 0.5})
    path = tmp_path / "evaluations.jsonl"
    path.write_text(path.read_text() + '{"step": 20, "lo')
    assert evaluations.read() == [(10, {"loss": 0.5})]
