"""Constructor arguments of TensorFlow 1 hooks and savers, which have no public names."""

from typing import Any


def hook_settings(hook) -> dict[str, Any] | None:
    """The constructor arguments of a hook of tf.compat.v1.train, or None for other classes.

    Reason: only a session can run these hooks. tfbig replaces them by its own hooks with the same
    arguments.
    Guard: tests/private_api/test_hooks.py.
    """
    made_with = {
        "StopAtStepHook": lambda h: {"num_steps": h._num_steps, "last_step": h._last_step},
        "NanTensorHook": lambda h: {
            "loss_tensor": h._loss_tensor,
            "fail_on_nan_loss": h._fail_on_nan_loss,
        },
        "LoggingTensorHook": lambda h: {
            "tensors": {tag: h._tensors[tag] for tag in h._tag_order}
            if isinstance(h._tensors, dict)
            else h._tensors,
            **_timer(h._timer, "every_n_iter", "every_n_secs"),
            "at_end": h._log_at_end,
            "formatter": h._formatter,
        },
        "StepCounterHook": lambda h: {
            **_timer(h._timer, "every_n_steps", "every_n_secs"),
            "output_dir": h._output_dir,
            "summary_writer": h._summary_writer,
        },
        "CheckpointSaverHook": lambda h: {
            "checkpoint_dir": h._checkpoint_dir,
            **_timer(h._timer, "save_steps", "save_secs"),
            "saver": h._saver,
            "scaffold": h._scaffold,
            "listeners": h._listeners,
            "save_graph_def": h._save_graph_def,
        },
        "SummarySaverHook": lambda h: {
            **_timer(h._timer, "save_steps", "save_secs"),
            "output_dir": h._output_dir,
            "summary_writer": h._summary_writer,
            "scaffold": h._scaffold,
            "summary_op": h._summary_op,
        },
        "FinalOpsHook": lambda h: {
            "final_ops": h._final_ops,
            "final_ops_feed_dict": h._final_ops_feed_dict,
        },
    }
    read = made_with.get(type(hook).__name__)
    return None if read is None else read(hook)


def _timer(timer, steps: str, secs: str) -> dict[str, Any]:
    if timer is None or not hasattr(timer, "_every_steps"):
        return {steps: None, secs: None}
    return {steps: timer._every_steps, secs: timer._every_secs}


def saver_max_to_keep(saver) -> int | None:
    """The number of checkpoints that a tf.compat.v1.train.Saver keeps, or None for all.

    Reason: this is the only setting of a scaffold's saver that tfbig supports, and it has no
    public name.
    Guard: tests/private_api/test_hooks.py.
    """
    return saver._max_to_keep or None
