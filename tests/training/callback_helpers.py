"""What the tests of tfbig's callbacks share: they drive them by hand as the loop does."""

from tfbig.training.callbacks.callback import RunInfo

LOGS = dict(
    loss=0.1234,
    accuracy=0.975,
    learning_rate=1e-3,
    steps_per_sec=141.7,
    examples_per_sec=61000.4,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run_info(**changes):
    facts = dict(model_dir=None, max_steps=2000, steps_per_epoch=None, epochs=None, log_steps=100)
    facts |= dict(summary_steps=100, start_step=0, batch_size=64, num_replicas=1)
    return RunInfo(**(facts | changes))


def begin(callback, **changes):
    callback.set_run(run_info(**changes))
    callback.on_train_begin()
    return callback
