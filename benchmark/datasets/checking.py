"""Validation of all files of a dataset, before the first run that reads them."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.annotations import (
    AnnotationError,
    Image,
    Problem,
    check_dataset,
    counted,
    problems_text,
    read_annotations,
    resolve_image,
)
from benchmark.datasets.errors import DatasetError
from benchmark.files import file_error, sha256_file
from benchmark.progress import shown_progress
from benchmark.recipes.paths import DatasetFiles

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checked:
    """The files of a dataset: name, bytes and SHA-256 of annotation files; name of image folders, with number
    and bytes of the listed images. All ``problems`` are warnings."""

    files: list[dict[str, Any]]
    problems: list[Problem]

    @property
    def warnings(self) -> int:
        """The number of defects that training and evaluation tolerate."""
        return counted(self.problems)["warning"]


def check_files(files: DatasetFiles, data: Path, dataset: str, workers: int = 1) -> Checked:
    """Check both splits, each alone and both together, and every image file that they list.

    Args:
        files: files of a real dataset.
        data: folder to which names in the result are relative.
        dataset: name, for messages.
        workers: processes that open image files.

    Raises:
        DatasetError: errors that would stop a training, prediction or evaluation, or make numbers wrong.
        FileError: a file cannot be read.
    """
    with shown_progress("image files") as progress:
        problems = check_dataset(
            files.train, files.val, files.train_images, files.val_images, workers=workers, progress=progress
        )
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        number = counted(errors)["error"]
        raise DatasetError(
            f"the files of dataset {dataset} have {number:,} error{'s' * (number > 1)}",
            found=problems_text(errors, shown=2).replace("\n", "\n    "),
            remedy=f"longtail check {files.train} --val {files.val} --images {files.train_images} "
            f"--val-images {files.val_images} lists all",
        )
    if problems:
        _LOGGER.warning(problems_text(problems))
    return Checked(_inventory(files, data), problems)


def _inventory(files: DatasetFiles, data: Path) -> list[dict[str, Any]]:
    images: dict[Path, list[Image]] = {}
    found = []
    for path, folder in ((files.train, files.train_images), (files.val, files.val_images)):
        found.append({"name": _name(path, data), "bytes": path.stat().st_size, "sha256": sha256_file(path)})
        images.setdefault(folder, []).extend(read_annotations(path).images)
    for folder, records in images.items():
        paths = set(_paths(records, folder))
        try:
            size = sum(path.stat().st_size for path in paths)
        except OSError as error:
            raise file_error("read", folder, error) from error
        found.append({"name": _name(folder, data), "images": len(paths), "bytes": size})
    return found


def _paths(images: Iterable[Image], folder: Path) -> Iterable[Path]:
    for image in images:
        try:
            yield resolve_image(image, folder)
        except AnnotationError:  # of a warning: the image is not needed
            continue


def _name(path: Path, data: Path) -> str:
    return path.relative_to(data).as_posix() if path.is_relative_to(data) else str(path)
