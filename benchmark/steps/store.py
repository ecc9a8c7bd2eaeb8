"""The store of finished steps: each in a folder named by its key, moved there as a whole and never changed.

Copying one store into another merges them, because equal keys mean equal results.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from benchmark.files import file_error, write_text
from benchmark.recipes import lineage
from benchmark.recipes.models import Dataset, Run
from benchmark.recipes.paths import RECORD, links_folder, results_folder, run_name, store_folder
from benchmark.steps.listing import INTERMEDIATES, dataset_steps, own_steps, shared_steps
from benchmark.steps.step import ABSENT, DONE, Step, source_hashes_folder

_LOGGER = logging.getLogger(__name__)

OLD_RECORDS = "*.provenance.json"
"""Records of version 0.1, beside the results of runs."""


def publish(step: Step) -> None:
    """Move a finished step, with its record, into the store as a whole.

    If another process has finished the same step meanwhile, its result is kept; a damaged result is replaced.
    Raises ``FileError`` for errors of the system.
    """
    for source in step.sources.values():
        if source.sha256 != ABSENT:
            write_text(source_hashes_folder(source.name) / source.sha256, "")
    try:
        (step.work / DONE).touch()
        step.folder.parent.mkdir(parents=True, exist_ok=True)
        if step.finished:
            shutil.rmtree(step.work)
            return
        shutil.rmtree(step.folder, ignore_errors=True)  # empty, as created by Snakemake, or damaged
        _move(step.work, step.folder)
    except OSError as error:
        raise file_error("write", step.folder, error) from error


def _move(work: Path, target: Path) -> None:
    """Rename a folder; if the store is on another disk, copy it beside its destination first."""
    try:
        work.replace(target)
    except OSError:
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(work, beside)
        beside.replace(target)
        shutil.rmtree(work)


def older(step: Step) -> list[Path]:
    """Folders of the same finished step made with other versions of the project's areas, newest first."""
    found = (store_folder() / step.kind.name).glob(f"{step.identity}-*/{RECORD}")
    others = [record for record in found if record.parent.name != step.key]
    return [record.parent for record in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)]


def link(run: Run) -> None:
    """Link ``results/runs/<name of the run>/<step>`` to every finished step of a run and of its bases, and
    those of their datasets as ``link_dataset`` does. Existing files that are not links are kept."""
    for item in lineage(run):
        own = [*(step for step in shared_steps(item) if step.kind is INTERMEDIATES), *own_steps(item)]
        _link({links_folder() / run_name(item) / step.name: step for step in own})
        link_dataset(item.dataset)


def link_dataset(dataset: Dataset) -> None:
    """Link ``results/data/<dataset>/<step>`` to every finished step of a dataset."""
    _link({results_folder() / "data" / dataset.name / step.name: step for step in dataset_steps(dataset)})


def _link(places: Mapping[Path, Step]) -> None:
    for place, step in places.items():
        if step.finished and (place.is_symlink() or not place.exists()):
            target = os.path.relpath(step.folder, place.parent)
            with suppress(OSError):  # a file system without links: the store is complete without them
                if not place.is_symlink() or str(place.readlink()) != target:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.unlink(missing_ok=True)
                    place.symlink_to(target)


def warn_of_old_layout() -> None:
    """Print a note if there are results of version 0.1, which are not used."""
    folder = links_folder()
    if next(folder.rglob(OLD_RECORDS), None) is not None:
        _LOGGER.info(
            "%s holds results of version 0.1, whose records do not say which code made them: they are left "
            "as they are and not used (rm -r %s removes them)",
            folder,
            folder,
        )


def disk_usage(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def in_results(path: Path) -> str:
    """A path for messages, relative to the folder above ``results``."""
    base = results_folder()
    return f"results/{path.relative_to(base)}" if path.is_relative_to(base) else str(path)
