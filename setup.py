"""Builds tfbig; all but the configs is described in setup.cfg."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Puts the files of configs/ into the wheel as tfbig/configs/, for `--config=digits_mlp`."""

    def run(self) -> None:
        """Copies the configs after everything else is built."""
        super().run()
        if self.editable_mode:  # they are found beside the package
            return
        target = pathlib.Path(self.build_lib, "tfbig", "configs")
        target.mkdir(parents=True, exist_ok=True)
        for path in pathlib.Path("configs").glob("*.py"):
            shutil.copy(path, target)


setup(cmdclass={"build_py": BuildWithConfigs})
