"""A folder of text files as windows of tokens, and a small Transformer that predicts the next one.

Without --folder it is the Python source of the running Python's standard library. Whole documents
are held out. A token is a byte, unless --tokenizer names a file of the `tokenizers` library.

$ python examples/text_lm.py
$ python examples/text_lm.py --folder=corpus --patterns=.txt,.md --tokenizer=bpe.json
"""

import glob
import math
import os
import shutil
import sysconfig
import tempfile

import tfbig
from absl import app, flags
from tfbig.data import splitting
from tfbig.models import transformer_lm

_FOLDER = flags.DEFINE_string("folder", None, "Of text files; None: the standard library's.")
_PATTERNS = flags.DEFINE_list("patterns", [".py"], "The ends of the files' names.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "A tokenizer's JSON file; None: bytes.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 200, "The step at which to stop.")

SEQUENCE_LENGTH = 64


def copy_standard_library(folder: str) -> None:
    """Copies the modules of the standard library that are single files."""
    os.makedirs(folder)
    for path in glob.glob(os.path.join(sysconfig.get_path("stdlib"), "*.py")):
        shutil.copy(path, folder)


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as temporary:
        folder = _FOLDER.value
        if folder is None:
            folder = os.path.join(temporary, "library")
            copy_standard_library(folder)
        source = tfbig.data.TextFolderSource(
            folder,
            sequence_length=SEQUENCE_LENGTH,
            tokenizer=_TOKENIZER.value,
            patterns=_PATTERNS.value,
            on_bad_record="skip",  # a file that is empty or not UTF-8 is left out and named
        )
        split = splitting.by_group(source.documents, (0.95, 0.05), seed=0)
        train, test = source.select(split.train), source.select(split.test[::16])
        params = {
            "vocabulary_size": source.vocabulary_size,
            "sequence_length": SEQUENCE_LENGTH,
            "layers": 2,
            "width": 128,
            "heads": 4,
        }
        result = tfbig.train_distributed(
            transformer_lm.build,
            lambda: train.batch(16),
            eval_input_fn=lambda: test.batch(16),
            params=params,
            max_steps=_MAX_STEPS.value,
            config=tfbig.RunConfig(tf_random_seed=0),
        )
    unit = "byte" if _TOKENIZER.value is None else "token"
    bits = result.metrics["loss"] / math.log(2)
    print(f"step {result.global_step}: held-out {bits:.3f} bits per {unit}")


if __name__ == "__main__":
    app.run(main)
