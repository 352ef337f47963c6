"""A byte language model, trained on Python source, tuned to prose: as a whole and by LoRA.

The source is the standard library's; the prose is the language reference that Python's help()
shows, with whole topics held out. Both are compared with training from scratch on the same
prose, for the same number of steps. At the end the adapters are loaded from their file into
the base model.

$ python examples/fine_tune_lora_lm.py
$ python examples/fine_tune_lora_lm.py --pretrain_steps=4000 --steps=400
"""

import glob
import math
import os
import shutil
import sysconfig
import tempfile
from pydoc_data import topics

import tfbig
import keras
from absl import app, flags
from tfbig.data import splitting
from tfbig.finetuning import load_adapters, load_model
from tfbig.models import transformer_lm

_PRETRAIN_STEPS = flags.DEFINE_integer("pretrain_steps", 1000, "Steps on the source code.")
_STEPS = flags.DEFINE_integer("steps", 100, "Steps on the prose, from scratch and tuned.")
_PROSE = flags.DEFINE_integer("prose", 200_000, "Bytes of prose to train on, about.")
_RANK = flags.DEFINE_integer("lora_rank", 8, "Rank of the adapters.")
_SEED = flags.DEFINE_integer("seed", 0, "Of weights and of the order of the data.")

LENGTH, BATCH = 64, 16
PARAMS = {"sequence_length": LENGTH, "layers": 2, "width": 128, "heads": 4}


def copy_source_code(folder: str) -> None:
    """Copies the standard library's single-file modules; the prose is in none of them."""
    os.makedirs(folder)
    for path in glob.glob(os.path.join(sysconfig.get_path("stdlib"), "*.py")):
        shutil.copy(path, folder)


def write_prose(folder: str) -> None:
    """Writes one file for each topic of Python's help."""
    os.makedirs(folder)
    for name, text in topics.topics.items():
        with open(os.path.join(folder, f"{name}.txt"), "w", encoding="utf-8") as file:
            file.write(text)


def bits(result: tfbig.TrainResult) -> float:
    """The held-out loss in bits per byte."""
    return result.metrics["loss"] / math.log(2)


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as folder:
        code, prose = os.path.join(folder, "code"), os.path.join(folder, "prose")
        copy_source_code(code)
        write_prose(prose)
        code = tfbig.data.TextFolderSource(
            code, sequence_length=LENGTH, patterns=[".py"], on_bad_record="skip"
        )
        prose = tfbig.data.TextFolderSource(prose, sequence_length=LENGTH, patterns=[".txt"])
        split = splitting.by_group(prose.documents, (0.8, 0.2), seed=0)
        train = prose.select(split.train[: _PROSE.value // LENGTH])
        test = prose.select(split.test[::4])
        config = tfbig.RunConfig(tf_random_seed=_SEED.value)
        on_prose = {
            "input_fn": lambda: train.batch(BATCH),
            "eval_input_fn": lambda: test.batch(BATCH),
            "max_steps": _STEPS.value,
            "config": config,
        }
        base = tfbig.train_distributed(
            builder, lambda: code.batch(BATCH), max_steps=_PRETRAIN_STEPS.value, config=config
        ).model
        path = os.path.join(folder, "base.keras")
        base.save(path)

        keras.utils.set_random_seed(_SEED.value)
        whole = tfbig.Recipe(learning_rate=rate(2e-3), optimizer="adam")  # the best for both
        scratch = tfbig.fine_tune(builder(), recipe=whole, **on_prose)
        full = tfbig.fine_tune(path, recipe=whole, **on_prose)
        lora = tfbig.fine_tune(
            path,
            recipe=tfbig.Recipe(
                lora_rank=_RANK.value,
                lora_alpha=2 * _RANK.value,
                learning_rate=rate(1e-2),
                optimizer="adam",
            ),
            model_dir=os.path.join(folder, "lora"),
            **on_prose,
        )
        adapters = os.path.join(folder, "lora", "adapters.npz")
        again = load_adapters(load_model(path), adapters)
        size = os.path.getsize(adapters)

        before = tfbig.evaluate(base, on_prose["eval_input_fn"])["loss"] / math.log(2)
        gain = bits(scratch) - bits(full)
        trained = [sum(math.prod(w.shape) for w in r.model.trainable_weights) for r in (full, lora)]
        first = next(iter(tfbig.predict(lora.model, on_prose["eval_input_fn"])))
        same = next(iter(tfbig.predict(again, on_prose["eval_input_fn"])))
    print(f"bits per byte of held-out prose after {_STEPS.value} steps on it:")
    print(f"  from scratch    {bits(scratch):.3f}")
    print(f"  not tuned       {before:.3f}")
    print(f"  tuned           {bits(full):.3f}  {trained[0]:,} parameters")
    print(f"  tuned by LoRA   {bits(lora):.3f}  {trained[1]:,} parameters,"
          f" {trained[1] / trained[0]:.1%}; {size / 1000:.0f} kB of adapters")  # fmt: skip
    print(f"largest difference of the adapters put on again: {abs(first - same).max():.1e}")
    print(f"LoRA recovers {(bits(scratch) - bits(lora)) / gain:.0%} of the gain of {gain:.3f} bits")


def builder():
    """The model, compiled to be trained from scratch."""
    model = transformer_lm.build(PARAMS)
    model.optimizer.learning_rate = 3e-3
    return model


def rate(peak: float) -> dict:
    """Up to the peak, then down to 0 at the last step."""
    return {"schedule": "cosine", "peak": peak, "warmup_steps": 10}


if __name__ == "__main__":
    app.run(main)
