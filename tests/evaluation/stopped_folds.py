"""A cross-validation that would run for hours; the test stops it.

`python -m tests.evaluation.stopped_folds <model_dir>`
"""

import sys

import tfbig
from tests.training.small_runs import build, config, source


def main(model_dir: str) -> None:
    result = tfbig.cross_validate(
        build,
        source,
        folds=3,
        parallel_folds=2,
        model_dir=model_dir,
        epochs=10**6,
        config=config(steps_per_loop=100, save_checkpoints_steps=1000, keep_checkpoint_max=2),
    )
    print(f"{result.preempted} after {len(result.folds)} folds")


if __name__ == "__main__":
    main(sys.argv[1])
