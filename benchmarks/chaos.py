"""Runs training with parameter servers many times, and kills or stops random tasks in each run.

Every run must reach its last step with an accuracy within 0.01 of the undisturbed run, must not
fall back behind a checkpoint, and must leave no process.

    python benchmarks/chaos.py [--runs=30] [--events=3] [--steps=1500]
"""

import argparse
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from tests.cluster import chaos
from tests.cluster.conftest import marked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--first", type=int, default=1, help="the seed of the first run")
    parser.add_argument("--events", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    undisturbed = once(None, options)["finished"][0][1]
    print(f"undisturbed: accuracy {undisturbed:.4f}", flush=True)
    bad = 0
    for seed in range(options.first, options.first + options.runs):
        began = time.monotonic()
        found = once(seed, options)
        problems = problems_of(found, options.steps, undisturbed)
        bad += bool(problems)
        summary = ", ".join(problems) or f"accuracy {found['finished'][0][1]:.4f}"
        seconds = time.monotonic() - began
        print(f"{seed:3}  {seconds:4.0f} s  {summary}  ({'; '.join(found['events'])})", flush=True)
    print(f"{options.runs - bad} of {options.runs} runs passed")
    return int(bool(bad))


def once(seed: int | None, options: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory(prefix="tfbig-chaos-") as folder:
        path = pathlib.Path(folder)
        found = chaos.run(path, seed, options.steps, options.events, timeout=400)
        found["left"] = marked(path.name)
    return found


def problems_of(found: dict, steps: int, undisturbed: float) -> list[str]:
    problems = []
    if found["code"] is None:
        problems.append("HANGS")
    elif found["code"]:
        problems.append(f"EXIT CODE {found['code']}")
    if [step for step, _ in found["finished"]] != [steps]:
        problems.append(f"ENDED {found['finished']}")
    elif abs(found["finished"][0][1] - undisturbed) > 0.01:
        problems.append(f"ACCURACY {found['finished'][0][1]:.4f}")
    if found["went_back"]:
        problems.append("WENT BACK")
    if found["left"]:
        problems.append(f"PROCESSES LEFT: {found['left']}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
