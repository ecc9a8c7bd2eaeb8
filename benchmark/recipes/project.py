"""Locations of files that come with the project, and of files of the working folder.

The project's own files are in a checkout, or in ``benchmark/shipped`` of a wheel (setup.py). A working folder
is a checkout, or a folder that ``longtail init`` wrote: it has a ``Snakefile`` and ``workflows/``.
"""

from pathlib import Path

_INSTALLED = Path(__file__).resolve().parents[2]
"""The checkout, or the ``site-packages`` of a wheel: it has ``benchmark/`` and ``methods/``."""


def enclosing_project() -> Path | None:
    """The working directory or its nearest parent with a Snakefile and ``workflows/``."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").is_file() and (folder / "workflows").is_dir():
            return folder
    return None


def project_root() -> Path:
    """The folder of the ``Snakefile``, ``workflows/``, ``results/reported/`` and ``envs/`` that come with the
    project.

    The checkout around the working directory, else the checkout of the ``benchmark`` package, else the folder
    in the installed package.
    """
    project = enclosing_project()
    if project is not None and _is_whole(project):
        return project
    shipped = _INSTALLED / "benchmark" / "shipped"
    return shipped if shipped.is_dir() else _INSTALLED


def folders_of(part: str) -> list[Path]:
    """The folders of a kind (``methods``, ``workflows/datasets``...): the project's own, then that of the
    working folder if there is one."""
    root, project = project_root(), enclosing_project()
    folders = [(_INSTALLED if part == "methods" and root != project else root) / part]
    if project is not None and project != root and (project / part).is_dir():
        folders.append(project / part)
    return folders


def in_project(path: str) -> Path:
    """The folder of a method from its path in a record, which is relative to the project or absolute."""
    candidates = [folder.parent / path for folder in reversed(folders_of("methods"))]
    return next((candidate for candidate in candidates if candidate.exists()), candidates[-1])


def working_root() -> Path:
    """The folder of ``results/`` and ``data/``: the project around the working directory, else that
    directory.

    Relative (``.``) if it is the working directory itself, so that paths in rules and messages are short.
    """
    project = enclosing_project()
    return Path() if project is None or project == Path.cwd() else project


def shown(path: Path) -> str:
    """``path`` for messages and recipes: relative to the project if it is inside it."""
    root = enclosing_project() or _INSTALLED
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _is_whole(project: Path) -> bool:
    """Whether a folder is a checkout, and not only a working folder."""
    return (project / "workflows" / "schemas").is_dir()
