"""Where the project lies: the folder with ``Snakefile``, ``workflows/`` and ``methods/``."""

from pathlib import Path


def enclosing_project() -> Path | None:
    """The nearest folder from the working directory upwards with a Snakefile and workflows/."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").is_file() and (folder / "workflows").is_dir():
            return folder
    return None


def project_root() -> Path:
    """The project around the working directory, else the one that the ``benchmark`` package is part of."""
    return enclosing_project() or Path(__file__).resolve().parents[2]


def working_root() -> Path:
    """The folder of ``results/`` and ``data/``: the project around the working directory, else that
    directory.

    Relative (``.``) where it is the working directory itself, so that paths in rules and messages are short.
    """
    project = enclosing_project()
    return Path() if project is None or project == Path.cwd() else project


def shown(path: Path) -> str:
    """``path`` as messages and recipes name it: relative to the project where it lies in it."""
    root = project_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
