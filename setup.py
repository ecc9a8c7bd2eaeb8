"""Adds the files outside of packages to the wheel, where ``benchmark/recipes/project.py`` finds them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("Snakefile", "workflows", "results/reference", "results/reported", "envs")


class BuildWithProjectFiles(build_py):
    """Copies the project's files to ``benchmark/shipped`` of the wheel; an editable installation has them."""

    def run(self) -> None:
        """Build the packages and add the files."""
        super().run()
        if self.editable_mode:
            return
        for name in SHIPPED:
            target = Path(self.build_lib, "benchmark", "shipped", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if Path(name).is_dir():
                shutil.copytree(name, target, dirs_exist_ok=True)
            else:
                shutil.copy(name, target)


setup(cmdclass={"build_py": BuildWithProjectFiles})
