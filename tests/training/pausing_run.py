"""A run that saves after each call of the loop and pauses there, to be killed from outside."""

import time

import keras

from tests.training.small_runs import build, config, source, train

END = 200


def run(model_dir: str, seconds: float = 0.0) -> None:
    """Trains to END; the pauses change no number."""

    def pause(batch, logs):
        time.sleep(seconds)

    train(
        lambda: build(dropout=0.3),
        source,
        max_steps=END,
        model_dir=model_dir,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=pause)] if seconds else [],
        config=config(steps_per_loop=2, save_checkpoints_steps=2, keep_checkpoint_max=2),
    )
