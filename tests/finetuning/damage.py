"""Files that are damaged, of another kind, or made to harm; run in processes of their own."""

import json
import os
import pathlib
import pickle
import random
import resource
import shutil
import time
import traceback
import warnings
import zipfile

import h5py
import keras
import numpy as np
import tensorflow as tf

from tests.finetuning import pretrained
from tfbig.errors import UserError
from tfbig.finetuning.loading import load_model

SECONDS = 30  # that one file may take
_ROOM = 2 << 30  # of address space, beyond what the process had before


def limit_memory() -> None:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def outcome(path: str, base_model_fn=None) -> str:
    """ "loaded", "refused: …" for a UserError that names the file, else what went wrong."""
    start = time.monotonic()
    try:
        load_model(path, base_model_fn=base_model_fn)
        said = "loaded"
    except UserError as error:
        named = os.path.basename(path) in str(error)
        said = f"refused: {error}" if named else f"names no file: {error}"
    except BaseException:
        said = f"escaped: {traceback.format_exc(limit=-3)}"
    taken = time.monotonic() - start
    return said if taken < SECONDS else f"took {taken:.0f} s: {said}"


def damaged(fmt: str, count: int, folder: str) -> dict[str, list[str]]:
    """Loads a format's files, one of them damaged, `count` times for each kind of damage.

    Each file has its turn, and the places in it are spread over the whole of it.

    Returns:
        By "cut" and "flip" what came of each.
    """
    warnings.simplefilter("ignore")
    folder = pathlib.Path(folder)
    original = folder / "original"
    original.mkdir()
    path = pathlib.Path(pretrained.save_all(pretrained.trained(), original)[fmt])
    whole = original / path.relative_to(original).parts[0]
    limit_memory()
    outcomes: dict[str, list[str]] = {}
    for operation in ("cut", "flip"):
        draw = random.Random(f"{fmt} {operation}")
        for i in range(count):
            copy = folder / f"{operation}{i}"
            copy.mkdir()
            (shutil.copytree if whole.is_dir() else shutil.copy)(whole, copy / whole.name)
            files = [p for p in sorted(copy.rglob("*")) if _matters(p, path)]
            turn, turns = i // len(files), -(-count // len(files))
            part = turn / turns, (turn + 1) / turns
            where = damage(files[i % len(files)], operation, draw, part)
            said = outcome(str(copy / path.relative_to(original)), pretrained.builder_for(fmt))
            outcomes.setdefault(operation, []).append(f"{said} [{where}]")
            shutil.rmtree(copy)
            keras.backend.clear_session(free_memory=False)
    return outcomes


def _matters(file: pathlib.Path, path: pathlib.Path) -> bool:
    if not file.is_file() or file.name == "fingerprint.pb":
        return False
    return path.parent.name != "checkpoint" or file.name.startswith(path.name + ".")


def damage(
    file: pathlib.Path, operation: str, draw: random.Random, part: tuple[float, float]
) -> str:
    """Damages a file at a random place of a part of it, from 0 to 1; returns where."""
    data = bytearray(file.read_bytes())
    place = min(int(draw.uniform(*part) * len(data)), len(data) - 1)
    if operation == "cut":
        del data[place:]
    else:
        data[place] ^= draw.randrange(1, 256)
        for _ in range(draw.choice([0, 0, 7])):
            data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
    file.write_bytes(data)
    return f"{file.name} {operation} at {place}"


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: str):
        self._mark = mark

    def __reduce__(self):
        return (os.mkdir, (self._mark,))


def harmful(folder: str) -> dict[str, str]:
    """What becomes of each harmful or mistaken file, by its name."""
    warnings.simplefilter("ignore")
    folder = pathlib.Path(folder)
    mark = folder / "executed"
    paths = pretrained.save_all(pretrained.trained(), folder)
    _write_mistaken(folder)
    _write_pickles(folder, str(mark))
    _write_archives(folder, pathlib.Path(paths["keras"]))
    _write_hdf5(folder, pathlib.Path(paths["h5"]))
    _write_lambdas(folder, str(mark))
    (folder / "empty_folder").mkdir()
    names = sorted(p.name for p in folder.iterdir() if p.name.startswith(("bad_", "empty_")))
    limit_memory()
    found = {name: outcome(str(folder / name)) for name in [*names, "absent.keras"]}
    found["executed"] = str(mark.exists() or (folder.parent / "outside.txt").exists())
    return found


def _write_mistaken(folder: pathlib.Path) -> None:
    (folder / "bad_html.h5").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / "bad_text.keras").write_text("hello, world\n")
    (folder / "bad_png.keras").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (folder / "bad_empty.h5").write_bytes(b"")
    (folder / "bad_noise.h5").write_bytes(random.Random(0).randbytes(1000))
    with zipfile.ZipFile(folder / "bad_document.keras", "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    with h5py.File(folder / "bad_other.h5", "w") as file:
        file["measurements"] = np.zeros(3)
    (folder / "bad_folder").mkdir()
    (folder / "bad_folder" / "notes.txt").write_text("nothing")
    (folder / "bad_saved_model").mkdir()
    (folder / "bad_saved_model" / "saved_model.pb").write_text("hello")


def _write_pickles(folder: pathlib.Path, mark: str) -> None:
    data = pickle.dumps(Payload(mark))
    for name in ("bad_model.pkl", "bad_model.joblib", "bad_named.h5", "bad_named.keras"):
        (folder / name).write_bytes(data)
    (folder / "bad_old.pkl").write_bytes(pickle.dumps(Payload(mark), protocol=0))
    with zipfile.ZipFile(folder / "bad_model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", data)
    objects = np.array([Payload(mark)], dtype=object)
    np.save(folder / "bad_objects.npy", objects, allow_pickle=True)
    np.savez(folder / "bad_objects.npz", allow_pickle=True, a=objects)


def _write_archives(folder: pathlib.Path, good: pathlib.Path) -> None:
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def write(name: str, **changes: bytes) -> None:
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in {**members, **changes}.items():
                archive.writestr(member, data)

    zeros = bytes(300 << 20)
    write("bad_bomb_config.keras", **{"config.json": zeros})
    write("bad_bomb_metadata.keras", **{"metadata.json": zeros})
    write("bad_bomb_weights.keras", **{"model.weights.h5": zeros})
    write("bad_bomb_asset.keras", **{"assets/vocabulary.txt": zeros})
    write("bad_traversal.keras", **{"assets/../../outside.txt": b"out"})
    write("bad_backslash.keras", **{"..\\..\\outside.txt": b"out"})
    write("bad_absolute.keras", **{"/tmp/outside.txt": b"out"})
    write("bad_deep.keras", **{"config.json": b"[" * 1_000_000})
    write("bad_list.keras", **{"config.json": b"[1, 2]"})
    config = json.loads(members["config.json"])
    config["config"]["layers"][1]["config"]["units"] = 10**8
    write("bad_huge_layer.keras", **{"config.json": json.dumps(config).encode()})
    config["config"]["layers"][1]["class_name"] = "Unheard"
    config["config"]["layers"][1]["registered_name"] = "mine>Unheard"
    write("bad_class.keras", **{"config.json": json.dumps(config).encode()})
    lying = bytearray((folder / "bad_bomb_config.keras").read_bytes())
    place = lying.rfind(b"PK\x01\x02", 0, lying.rfind(b"config.json"))
    lying[place + 24 : place + 28] = (1000).to_bytes(4, "little")  # the declared size
    (folder / "bad_lying_size.keras").write_bytes(lying)
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(folder / "bad_link.keras", "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(link, "/etc/passwd")


def _write_hdf5(folder: pathlib.Path, good: pathlib.Path) -> None:
    def write(name: str):
        shutil.copy(good, folder / name)
        return h5py.File(folder / name, "a")

    with write("bad_huge_array.h5") as file:
        file.create_dataset("model_weights/huge", (1 << 40,), "f4", chunks=(1024,))
    with write("bad_outer_link.h5") as file:
        file["model_weights/away"] = h5py.ExternalLink("/etc/passwd", "/")
    with write("bad_outer_data.h5") as file:
        file.create_dataset("away", (8,), "u1", external=[("/etc/passwd", 0, 8)])
    with write("bad_cycle.h5") as file:
        file["model_weights/again"] = file["model_weights"]
    with write("bad_config.h5") as file:
        file.attrs["model_config"] = "{"


def _write_lambdas(folder: pathlib.Path, mark: str) -> None:
    layer = keras.layers.Lambda(lambda x: (os.mkdir(mark), x)[1] if False else x)
    model = keras.Sequential([keras.Input((8,)), layer])
    model.save(folder / "bad_lambda.keras")
    model.save(folder / "bad_lambda.h5")
    old = {"function": ["4wEAAAA=", None, None], "function_type": "lambda"}
    config = {"class_name": "Lambda", "config": {"name": "l", **old}}
    with h5py.File(folder / "bad_lambda_of_keras_2.h5", "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["model_config"] = json.dumps(
            {"class_name": "Sequential", "config": {"name": "s", "layers": [config]}}
        )

    class Writer(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8], name="x")])
        def __call__(self, x):
            tf.io.write_file(mark, "executed")
            return x

    tf.saved_model.save(Writer(), folder / "bad_writer")
