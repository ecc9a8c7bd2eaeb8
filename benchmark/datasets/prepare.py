"""``longtail data prepare``: check, link, download or rebuild the files of a dataset, or request them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmark.annotations import Image, Vocabulary, check_same_vocabulary, read_annotations
from benchmark.datasets.archives import extract_file, extract_folder
from benchmark.datasets.coco_lt import rebuild_coco_lt
from benchmark.datasets.download import DownloadError, check_archive, download
from benchmark.datasets.drawing import draw, is_drawn
from benchmark.datasets.errors import DatasetError
from benchmark.datasets.photographs import gather_images
from benchmark.files import file_error
from benchmark.progress import shown_progress
from benchmark.recipes.models import Archive, DataFile, Dataset, Subsample
from benchmark.recipes.project import project_root
from benchmark.statistics import ClassStatistics, class_statistics

Report = Callable[[str], None]

COCO = "coco/"
"""Start of the paths that ``--coco`` can link."""


@dataclass(frozen=True)
class Prepared:
    """State of a file or folder: ready or missing; ``text`` describes its content or what to do."""

    path: Path
    ready: bool
    text: str


def prepare_dataset(
    dataset: Dataset, data: Path, coco: Path | None, report: Report, *, stuff_maps: bool = False
) -> list[Prepared]:
    """Get the files of a real ``dataset`` into the folder ``data``; existing files are checked and kept.

    ``coco`` is a folder with COCO's images and annotations to link to; ``report`` is called with one line for
    every longer step. Missing stuff maps are skipped unless ``stuff_maps`` is set. Raises ``DatasetError``
    for an existing file that is not the expected one, for a folder ``coco`` without COCO, and for stuff maps
    of a dataset that has none; ``FileError`` for errors of the system. A failed download is not an error.
    """
    if stuff_maps and (dataset.train is None or dataset.train.stuff_maps is None):
        raise DatasetError(
            f"dataset {dataset.name} has no stuff maps", remedy="take a detector without semantic branch"
        )
    if dataset.whole is not None:
        return _prepare_subset(dataset, dataset.whole, data, coco, report)
    files = dataset.files or _files_of_splits(dataset)
    if coco is not None:
        _link_coco(files, data, coco)
    return _prepare_files(dataset, files, data, report, stuff_maps)


def _prepare_subset(
    dataset: Dataset, whole: Dataset, data: Path, coco: Path | None, report: Report
) -> list[Prepared]:
    """Draw the splits of a subset from the annotations of the whole dataset, then get only their images."""
    splits = _files_of_splits(dataset)
    annotations = [file for file in splits if _is_file(data / file.path)]
    prepared = []
    if not is_drawn(dataset, data):
        files = [file for file in whole.files or _files_of_splits(whole) if _is_file(data / file.path)]
        read = {split.annotations for split in (whole.train, whole.val) if split is not None}
        prepared = _prepare_files(whole, [file for file in files if file.path in read], data, report)
        if not all(file.ready for file in prepared):
            reason = f"it is drawn from the annotations of {whole.title}"
            return prepared + [Prepared(data / file.path, False, reason) for file in splits]
        report(f"drawing {dataset.title} from {whole.title} ...")
        draw(dataset, data)
    prepared += [
        Prepared(data / file.path, True, _check(dataset, file, data / file.path)) for file in annotations
    ]
    return prepared + _prepare_images(dataset, whole, data, coco, report)


def _prepare_images(
    dataset: Dataset, whole: Dataset, data: Path, coco: Path | None, report: Report
) -> list[Prepared]:
    """Link or download the images of a subset, folder by folder."""
    folders: dict[str, list[Image]] = {}
    sources = [] if coco is None else [coco, coco / "images"]
    if coco is not None and not coco.is_dir():
        raise DatasetError(
            "no such folder of COCO", where=coco, remedy="give the folder that holds train2017"
        )
    for split, of_whole in ((dataset.train, whole.train), (dataset.val, whole.val)):
        if split is not None and of_whole is not None:
            folders.setdefault(split.images, []).extend(read_annotations(data / split.annotations).images)
            sources.append(data / of_whole.images)
    prepared = []
    for folder, images in folders.items():
        unique = list({(image.coco_url, image.file_name): image for image in images}.values())
        report(f"getting the images of {data / folder} ...")
        with shown_progress("images") as progress:
            gathered = gather_images(unique, data / folder, list(dict.fromkeys(sources)), progress)
        text = str(gathered)
        if gathered.missing:
            text += f": {gathered.reason}\nrun the command again to continue, or give --coco FOLDER"
        prepared.append(Prepared(data / folder, not gathered.missing, text))
    return prepared


def _prepare_files(
    dataset: Dataset, files: list[DataFile], data: Path, report: Report, stuff_maps: bool = False
) -> list[Prepared]:
    """The state of every file in a list, after making those that can be made."""
    downloads: list[Path] = []
    prepared = []
    for file in files:
        target = data / file.path
        if dataset.is_of_stuff(file) and not (stuff_maps or _exists(target)):
            report(f"left out {target}: only detectors with a semantic branch need it (--stuff-maps)")
            continue
        try:
            done = _exists(target) or _make(file, data, target, downloads, report)
            prepared.append(
                Prepared(target, True, _check(dataset, file, target)) if done else _missing(file, data)
            )
        except _MissingError as error:
            prepared.append(Prepared(target, False, str(error)))
    for archive in downloads:
        archive.unlink(missing_ok=True)
    return prepared


class _MissingError(Exception):
    """A file is missing and cannot be downloaded; the text states what to do."""


def _files_of_splits(dataset: Dataset) -> list[DataFile]:
    """The files of a dataset that does not list them: its annotation files and image folders."""
    splits = [split for split in (dataset.train, dataset.val) if split is not None]
    paths = dict.fromkeys([split.annotations for split in splits] + [split.images for split in splits])
    paths |= dict.fromkeys(split.stuff_maps for split in splits if split.stuff_maps is not None)
    return [DataFile(path=path) for path in paths]


def _link_coco(files: list[DataFile], data: Path, coco: Path) -> None:
    """Link the files below ``coco/`` that ``coco`` has, in either of the two usual layouts."""
    wanted = [file for file in files if file.path.startswith(COCO)]
    sources = {}
    for file in wanted:
        name = file.path.removeprefix(COCO)
        places = [coco / name, coco / "images" / name]
        if found := next((place for place in places if _exists(place)), None):
            sources[data / file.path] = found.resolve()
    if not sources:
        raise DatasetError(
            "this is not a folder of COCO",
            where=coco,
            found=", ".join(sorted(path.name for path in coco.iterdir())[:8]) or "nothing"
            if coco.is_dir()
            else "no such folder",
            expected=" or ".join(file.path.removeprefix(COCO) for file in wanted)
            or "no folder: this dataset does not need COCO",
            remedy="give the folder that holds train2017 and val2017",
        )
    for target, source in sources.items():
        if _exists(target):
            continue
        try:
            if target.is_symlink():
                target.unlink()  # a link whose target no longer exists
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
        except OSError as error:
            raise file_error("write", target, error) from error


def _exists(path: Path) -> bool:
    """Whether there is a file or a non-empty folder."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _is_file(path: Path) -> bool:
    """Whether a path is an annotation file and not an image folder, by its extension."""
    return path.suffix == ".json"


def _make(file: DataFile, data: Path, target: Path, downloads: list[Path], report: Report) -> bool:
    """Rebuild or unpack the file if possible; returns whether it was. Downloaded archives are added to
    ``downloads``."""
    if file.subsample is not None:
        return _subsample(file.subsample, data, target, report)
    if file.archive is None:
        return False
    archive = data / "downloads" / file.archive.file_name
    if archive.is_file():
        check_archive(file.archive, archive)
    else:
        report(f"fetching {file.archive.url}{_size(file.archive)} ...")
        try:
            download(file.archive, archive)
        except DownloadError as error:
            raise _MissingError(f"{_request(file, data)}\n{error}") from None
        downloads.append(archive)
    report(f"unpacking {archive.name} ...")
    extract = extract_file if _is_file(target) else extract_folder
    extract(archive, target.name, target)
    return True


def _subsample(subsample: Subsample, data: Path, target: Path, report: Report) -> bool:
    official, source = data / subsample.official, data / subsample.source
    if official.is_file():
        report(f"linking the authors' own file {official}")
        target.symlink_to(Path(os.path.relpath(official, target.parent)))
        return True
    if not source.is_file():
        raise _MissingError(f"put the authors' file to {official}, or get {source}, from which it is rebuilt")
    report(f"drawing annotations from {source} ...")
    counts = ClassStatistics.read(project_root() / "workflows" / "datasets" / subsample.counts)
    report(rebuild_coco_lt(source, counts, target, subsample.seed))
    return True


def _missing(file: DataFile, data: Path) -> Prepared:
    return Prepared(data / file.path, False, _request(file, data))


def _request(file: DataFile, data: Path) -> str:
    """What the user has to do for a file."""
    target = data / file.path
    if file.archive is None:
        return f"put it to {target}"
    checksum = f"\nSHA-256 {file.archive.sha256}" if file.archive.sha256 else ""
    return (
        f"get {file.archive.url}{_size(file.archive)}\n"
        f"and put it to {data / 'downloads' / file.archive.file_name}, or {target.name} itself to its place"
        f"{checksum}"
    )


def _size(archive: Archive) -> str:
    return f" ({archive.bytes:,} bytes)" if archive.bytes else ""


def _check(dataset: Dataset, file: DataFile, target: Path) -> str:
    """Description of the content of a file or folder; ``DatasetError`` if it does not match the dataset."""
    if _is_file(target):
        statistics = class_statistics(target)
        if dataset.vocabulary is not None:
            check_same_vocabulary(
                statistics.as_vocabulary(f"annotations {target}"),
                Vocabulary(f"dataset {dataset.name}", dataset.vocabulary),
                DatasetError,
                remedy=f"put the file of {dataset.title} there",
            )
        statistics.check_number(dataset.categories, dataset.name, target, DatasetError)
        found = {"images": statistics.num_images, "annotations": statistics.num_annotations}
        text = _describe(statistics)
    else:
        with os.scandir(target) as entries:
            found = {"images": sum(not entry.name.startswith(".") for entry in entries)}
        text = "a folder" if file.images is None else f"{found['images']} images"
    for what, number in found.items():
        expected = getattr(file, what)
        if expected is not None and number != expected:
            raise DatasetError(
                f"{target} is not what dataset {dataset.name} asks for",
                found=f"{number} {what}",
                expected=f"{expected} {what}",
                remedy="remove it, and run the command again",
            )
    return text


def _describe(statistics: ClassStatistics) -> str:
    return (
        f"{statistics.num_images} images, {statistics.num_annotations} annotations, "
        f"{statistics.num_classes} categories"
    )
