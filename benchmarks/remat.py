"""Memory and speed with and without RunConfig.remat, the recomputation of activations.

    python benchmarks/remat.py --layers=8 --width=128 --length=256 --batch=32

Each run has its own process, whose peak memory is read at its end. Prints one row per run.
"""

import argparse
import resource
import subprocess
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(layers=8, width=128, length=256, batch=32, steps=8).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", choices=("True True", "True False", "False True", "False False"))
    arguments = parser.parse_args()
    if arguments.only:
        jit, remat = (word == "True" for word in arguments.only.split())
        print(measure(arguments, jit=jit, remat=remat))
        return
    print(f"{'jit_compile':12} {'remat':6} {'peak MB':>8} {'steps/s':>8}")
    for jit in ("True", "False"):
        for remat in ("False", "True"):
            words = [*sys.argv[1:], f"--only={jit} {remat}"]
            done = subprocess.run(
                [sys.executable, __file__, *words],
                capture_output=True,
                text=True,
                check=True,
                timeout=1800,
            )
            peak, speed = done.stdout.splitlines()[-1].split()
            print(f"{jit:12} {remat:6} {float(peak):8.0f} {float(speed):8.2f}", flush=True)


def measure(arguments: argparse.Namespace, *, jit: bool, remat: bool) -> str:
    """Trains the language model; returns its additional peak memory and its speed."""
    import numpy as np

    import tfbig

    def model_fn():
        return tfbig.models.transformer_lm.build(
            {
                "layers": arguments.layers,
                "width": arguments.width,
                "sequence_length": arguments.length,
                "dropout": 0.1,
            }
        )

    shape = [arguments.batch * 4, arguments.length + 1]
    tokens = np.random.RandomState(0).randint(0, 256, shape).astype("int32")

    def input_fn():
        return tfbig.data.ArraySource((tokens[:, :-1], tokens[:, 1:])).batch(arguments.batch)

    config = tfbig.RunConfig(
        jit_compile=jit, remat=remat, tf_random_seed=1, log_step_count_steps=arguments.steps // 2
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = tfbig.train_distributed(model_fn, input_fn, max_steps=arguments.steps, config=config)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"{peak} {result.history[-1]['steps_per_sec']}"  # of the second half, after compilation


if __name__ == "__main__":
    main()
