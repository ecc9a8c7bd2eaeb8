"""Removal of results that no experiment refers to."""

import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.files import is_locked
from benchmark.recipes import load_experiment
from benchmark.recipes.catalog import yaml_files
from benchmark.recipes.paths import (
    RECORD,
    links_folder,
    logs_folder,
    results_folder,
    store_folder,
    work_folder,
)
from benchmark.steps.listing import KINDS, steps_of
from benchmark.steps.step import ABSENT, Step, source_hashes_folder
from benchmark.steps.store import disk_usage, in_results

_LOGGER = logging.getLogger(__name__)

ORIGIN = "experiment.txt"
"""File in the folder of an experiment's tables with the path of the experiment's file."""


@dataclass(frozen=True)
class Garbage:
    """Folders of results that no experiment refers to, relative to ``results``, with their sizes in bytes."""

    folders: dict[str, int]
    removed: bool

    def text(self) -> str:
        """One line for each folder, then the total."""
        lines = [f"{size / 1e6:10,.1f} MB  {name}" for name, size in self.folders.items()]
        total = sum(self.folders.values()) / 1e6
        verb = "removed" if self.removed else "would be removed"
        return "\n".join([*lines, f"{total:,.1f} MB in {len(self.folders)} folders {verb}"])


def collect_garbage(experiments: Iterable[str], *, remove: bool) -> Garbage:
    """Remove, or only list, results that no experiment refers to.

    Keeps the steps of the experiments in ``workflows/experiments``, of those with tables in
    ``results/experiments`` and of ``experiments`` (names or files). A step that was made with older versions
    of the project's areas is kept until there is a newer one. Steps in progress are kept.

    Raises ``BenchmarkError`` and removes nothing if an experiment cannot be read, or if the keys of its steps
    are unknown because a source file is missing: its results would be lost.
    """
    kept_keys, kept_identities = _referenced_keys([*experiments, *yaml_files("experiments"), *_with_tables()])
    garbage = [
        path
        for folder in (store_folder(), work_folder())
        for path in _entries(folder)
        if not _kept(path, kept_keys, kept_identities)
    ]
    found = Garbage({in_results(path): disk_usage(path) for path in garbage}, remove)
    if remove:
        for path in garbage:
            shutil.rmtree(path)
            (logs_folder() / path.parent.name / f"{path.name}.log").unlink(missing_ok=True)
        _remove_dangling_links()
    return found


def _referenced_keys(experiments: Iterable[str]) -> tuple[set[str], set[str]]:
    """Keys of the steps of experiments, and identities of unfinished ones."""
    keys, identities = set(), set()
    for name in dict.fromkeys(experiments):
        for row in load_experiment(name).rows:
            for step in (step for run in row.runs for step in steps_of(run)):
                _check_sources(step)
                keys.add(step.key)
                if not step.finished:
                    identities.add(step.identity)
    return keys, identities


def _check_sources(step: Step) -> None:
    for source in step.sources.values():
        if source.sha256 == ABSENT and any(source_hashes_folder(source.name).glob("*")):
            raise BenchmarkError(
                "cannot tell which results are unused: several were made from a file that is not here now",
                where=source.path,
                found="results from more than one content of it",
                remedy="put the file there, or set LONGTAIL_DATA to the folder that holds it",
            )


def _with_tables() -> Iterator[str]:
    for origin in (results_folder() / "experiments").glob(f"*/{ORIGIN}"):
        path = Path(origin.read_text().strip())
        if path.is_file():
            yield str(path)
        else:
            _LOGGER.info("%s, whose tables are in %s, is no more", path, origin.parent)


def _entries(folder: Path) -> Iterator[Path]:
    for kind in KINDS:
        yield from sorted(path for path in (folder / kind.name).glob("*") if path.is_dir())


def _kept(path: Path, keys: set[str], identities: set[str]) -> bool:
    if path.name in keys and (path / RECORD).is_file():
        return True
    if path.is_relative_to(work_folder()) and is_locked(path.with_name(f".{path.name}.lock")):
        return True
    return path.is_relative_to(store_folder()) and path.name.partition("-")[0] in identities


def _remove_dangling_links() -> None:
    for folder in (links_folder(), results_folder() / "data"):
        for path in folder.rglob("*"):
            if path.is_symlink() and not path.exists():
                path.unlink()
