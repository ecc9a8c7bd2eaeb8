"""Where the project lies: the folder with ``Snakefile``, ``workflows/`` and ``methods/``."""

from pathlib import Path


def project_root() -> Path:
    """The nearest folder from the working directory upwards with a Snakefile and workflows/, else the
    folder that holds the ``benchmark`` package."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").is_file() and (folder / "workflows").is_dir():
            return folder
    return Path(__file__).resolve().parents[2]


def shown(path: Path) -> str:
    """``path`` as messages and recipes name it: relative to the project where it lies in it."""
    root = project_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
