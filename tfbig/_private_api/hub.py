"""Loads files of KerasHub presets."""

import contextlib

from keras.src.saving.serialization_lib import SafeModeScope


def preset_file(preset: str, name: str) -> str | None:
    """The path of a file of a KerasHub preset, downloaded if necessary; None if it is absent.

    Reason: `from_preset` has to be called on the saved class, which only the files of the preset
    contain. They are also checked before objects are created from them.
    Guard: tests/finetuning/test_keras_hub.py.

    Args:
        preset: a folder, a built-in name, or a handle such as "hf://user/name".
        name: of a file in the preset.

    Raises:
        Exception: any error of the library that downloads the file.
    """
    from keras_hub.src.utils.preset_utils import get_file  # heavy, and rarely installed

    try:
        return get_file(preset, name)
    except FileNotFoundError:
        return None


def unsafe_deserialization() -> contextlib.AbstractContextManager:
    """Switches Keras's safe mode of deserialization off inside the block.

    Reason: `from_preset` has no argument safe_mode.
    Guard: tests/finetuning/test_keras_hub.py.
    """
    return SafeModeScope(False)
