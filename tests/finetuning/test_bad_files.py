"""Files in bad shape end in an error that names the file and the cause; nothing in them runs."""

import pytest

from tests.finetuning import damage

CAUSES = {
    "absent.keras": "no such file",
    "bad_absolute.keras": "leads out of the archive",
    "bad_backslash.keras": "leads out of the archive",
    "bad_bomb_asset.keras": "decompression bomb",
    "bad_bomb_config.keras": "decompression bomb",
    "bad_bomb_metadata.keras": "decompression bomb",
    "bad_bomb_weights.keras": "decompression bomb",
    "bad_class.keras": "custom_objects=",
    "bad_config.h5": "model_config is not JSON",
    "bad_cycle.h5": "nested without an end",
    "bad_deep.keras": "config.json is not JSON",
    "bad_document.keras": "there is no config.json",
    "bad_empty.h5": "0 bytes",
    "bad_folder": "without a model (notes.txt)",
    "bad_html.h5": "HTML",
    "bad_huge_array.h5": "decompression bomb",
    "bad_huge_layer.keras": "the layers in its config would take",
    "bad_lambda.h5": "bytecode",
    "bad_lambda.keras": "safe_mode=False",
    "bad_lambda_of_keras_2.h5": "bytecode",
    "bad_link.keras": "symbolic link",
    "bad_list.keras": "cannot be loaded",
    "bad_lying_size.keras": "is damaged",
    "bad_model.joblib": "pickle",
    "bad_model.pkl": "pickle",
    "bad_model.pt": "pickle",
    "bad_named.h5": "pickle",
    "bad_named.keras": "pickle",
    "bad_noise.h5": "unknown kind",
    "bad_objects.npy": "NumPy array",
    "bad_objects.npz": "NumPy archive",
    "bad_old.pkl": "pickle",
    "bad_other.h5": "without an architecture",
    "bad_outer_data.h5": "in another file",
    "bad_outer_link.h5": "link to another place",
    "bad_png.keras": "PNG",
    "bad_saved_model": "not a SavedModel",
    "bad_text.keras": "text file",
    "bad_traversal.keras": "leads out of the archive",
    "bad_writer": "WriteFile",
    "empty_folder": "nothing",
}
FORMATS = ("keras", "h5", "weights", "savedmodel", "checkpoint")


@pytest.mark.slow
def test_a_file_that_harms_or_is_no_model_is_refused_with_its_cause(in_process, tmp_path):
    (tmp_path / "files").mkdir()
    found = in_process(damage.harmful, str(tmp_path / "files"), timeout=300)
    assert found.pop("executed") == "False"
    assert found.keys() == CAUSES.keys()
    wrong = {
        name: said
        for name, said in found.items()
        if not said.startswith("refused") or CAUSES[name] not in said
    }
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("count", [10, pytest.param(50, marks=pytest.mark.long)])
def test_a_damaged_file_ends_in_an_error_that_names_it_or_in_a_model(
    in_process, tmp_path, fmt, count
):
    """What matters is which file is damaged, and in which part; 10 places reach all of them."""
    (tmp_path / "files").mkdir()
    found = in_process(damage.damaged, fmt, count, str(tmp_path / "files"), timeout=550)
    cut, flipped = found["cut"], found["flip"]
    assert not [said for said in cut if not said.startswith("refused")]
    assert not [said for said in flipped if not said.startswith(("refused", "loaded"))]
    if fmt in ("keras", "checkpoint"):  # which have checksums
        assert sum(said.startswith("loaded") for said in flipped) <= count / 10
