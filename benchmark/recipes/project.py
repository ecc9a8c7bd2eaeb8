"""Where the project lies: the folder with ``Snakefile``, ``workflows/`` and ``methods/``."""

from pathlib import Path

from benchmark.errors import BenchmarkError

_CHECKOUT = Path(__file__).resolve().parents[2]


def enclosing_project() -> Path | None:
    """The nearest folder from the working directory upwards with a Snakefile and workflows/."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").is_file() and (folder / "workflows").is_dir():
            return folder
    return None


def project_root() -> Path:
    """The project around the working directory, else the one that the ``benchmark`` package is part of.

    Raises ``BenchmarkError`` where the package was installed without the project: methods, datasets,
    detectors and experiments are files of the project, which no wheel carries.
    """
    project = enclosing_project() or _CHECKOUT
    if not (project / "workflows").is_dir():
        raise BenchmarkError(
            "the files of the project are not here: manifests of methods, presets, datasets and workflows",
            where=project,
            found="the Python packages alone, as a wheel or a non-editable installation has them",
            remedy="run the command inside a checkout of the project, or install one with pip install -e",
        )
    return project


def working_root() -> Path:
    """The folder of ``results/`` and ``data/``: the project around the working directory, else that
    directory.

    Relative (``.``) where it is the working directory itself, so that paths in rules and messages are short.
    """
    project = enclosing_project()
    return Path() if project is None or project == Path.cwd() else project


def shown(path: Path) -> str:
    """``path`` as messages and recipes name it: relative to the project where it lies in it."""
    root = enclosing_project() or _CHECKOUT
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
