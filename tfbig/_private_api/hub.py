"""What loading a KerasHub preset needs and no public name does."""

import contextlib

from keras.src.saving.serialization_lib import SafeModeScope


def preset_file(preset: str, name: str) -> str | None:
    """The path of a file of a KerasHub preset, downloaded if need be; None if it has no such file.

    Reason: `from_preset` has to be called on the class that was saved, which only the preset's
    files tell, and these are to be checked before anything is made of them. Guard:
    tests/finetuning/test_keras_hub.py.

    Args:
        preset: a folder, a built-in name, or a handle such as "hf://user/name".
        name: of a file in it.

    Raises:
        Exception: whatever the library that downloads it raises.
    """
    from keras_hub.src.utils.preset_utils import get_file  # heavy, and rarely there

    try:
        return get_file(preset, name)
    except FileNotFoundError:
        return None


def unsafe_deserialization() -> contextlib.AbstractContextManager:
    """Keras makes objects of configs without safe mode inside the block.

    Reason: `from_preset` takes no safe_mode. Guard: tests/finetuning/test_keras_hub.py.
    """
    return SafeModeScope(False)
