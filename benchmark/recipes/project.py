"""Where files lie: those that come with the project, and those of the folder that somebody works in.

The project's own files are a checkout's, or those that a wheel carries in ``benchmark/shipped`` (setup.py). A
folder to work in is a checkout, or one that ``longtail init`` wrote: with a ``Snakefile`` and ``workflows/``.
"""

from pathlib import Path

_INSTALLED = Path(__file__).resolve().parents[2]
"""The checkout, or the ``site-packages`` of a wheel: it has ``benchmark/`` and ``methods/``."""


def enclosing_project() -> Path | None:
    """The nearest folder from the working directory upwards with a Snakefile and ``workflows/``."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").is_file() and (folder / "workflows").is_dir():
            return folder
    return None


def project_root() -> Path:
    """The folder of ``Snakefile``, ``workflows/``, ``results/reported/`` and ``envs/`` that come with the
    project.

    It is the checkout around the working directory, else the one that the ``benchmark`` package is part of,
    else the folder in the installed package.
    """
    project = enclosing_project()
    if project is not None and _is_whole(project):
        return project
    shipped = _INSTALLED / "benchmark" / "shipped"
    return shipped if shipped.is_dir() else _INSTALLED


def folders_of(part: str) -> list[Path]:
    """Where files of a kind lie (``methods``, ``workflows/datasets``...): the project's own folder, then that
    of the folder that somebody works in, if it has one."""
    root, project = project_root(), enclosing_project()
    folders = [(_INSTALLED if part == "methods" and root != project else root) / part]
    if project is not None and project != root and (project / part).is_dir():
        folders.append(project / part)
    return folders


def in_project(path: str) -> Path:
    """The folder of a method that a record names relative to its project; an absolute path as it is."""
    candidates = [folder.parent / path for folder in reversed(folders_of("methods"))]
    return next((candidate for candidate in candidates if candidate.exists()), candidates[-1])


def working_root() -> Path:
    """The folder of ``results/`` and ``data/``: the project around the working directory, else that
    directory.

    Relative (``.``) where it is the working directory itself, so that paths in rules and messages are short.
    """
    project = enclosing_project()
    return Path() if project is None or project == Path.cwd() else project


def shown(path: Path) -> str:
    """``path`` as messages and recipes name it: relative to the project where it lies in it."""
    root = enclosing_project() or _INSTALLED
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _is_whole(project: Path) -> bool:
    """Whether a folder is a checkout, and not one with somebody's own files alone."""
    return (project / "workflows" / "schemas").is_dir()
