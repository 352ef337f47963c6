"""A global batch in micro-batches, and 16-bit activations: less memory, nearly the same numbers.

$ python examples/less_memory.py --accumulation_steps=4 --precision=mixed_bfloat16
"""

import tfbig
from absl import app, flags
from tfbig.datasets import text
from tfbig.models import transformer_lm

_STEPS = flags.DEFINE_integer("accumulation_steps", 2, "Micro-batches for each update.")
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16", "mixed_float16"], "Keras dtype policy."
)
_MAX_STEPS = flags.DEFINE_integer("max_steps", 60, "The step at which to stop.")


def main(argv: list[str]) -> None:
    del argv
    params = {"layers": 1, "width": 64, "heads": 2, "sequence_length": 64}
    params["data"] = {"batch_size": 16, "sequence_length": 64, "max_bytes": 500_000}
    result = tfbig.train_distributed(
        transformer_lm.build,
        text.input_fn,  # the text of Python's own standard library
        params=params,
        max_steps=_MAX_STEPS.value,
        config=tfbig.RunConfig(
            accumulation_steps=_STEPS.value,
            precision=_PRECISION.value,
            log_step_count_steps=20,
        ),
    )
    print(f"step {result.global_step}: {result.history[-1]['bits_per_byte']:.3f} bits per byte")


if __name__ == "__main__":
    app.run(main)
