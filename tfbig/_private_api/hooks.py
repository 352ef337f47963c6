"""What hooks and scaffolds of TensorFlow 1 were made with, which only their private names tell."""

from typing import Any


def hook_settings(hook) -> dict[str, Any] | None:
    """The arguments that a hook of tf.compat.v1.train was made with; None for other kinds.

    Reason: a user's script makes TensorFlow's hooks, which only a session can run; ours do the
    same on the loop. Guard: test_hook_settings.
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
    """How many checkpoints a tf.compat.v1.train.Saver keeps; None: all.

    Reason: of a scaffold's saver that is all that can be honoured, and there is no public name.
    Guard: test_saver_max_to_keep.
    """
    return saver._max_to_keep or None
