"""Packages, weights and data that a run needs and that are missing."""

import importlib.util
from collections.abc import Iterator

from benchmark.recipes import paths
from benchmark.recipes.detector_settings import HUB_COCO_BACKBONES
from benchmark.recipes.models import Archive, Dataset, Run
from benchmark.recipes.project import working_root
from benchmark.recipes.zoo import zoo


def missing(chain: list[Run]) -> str | None:
    """Why the last run of a chain of bases cannot run here, with a line for each missing thing; None if it
    can."""
    run = chain[-1]
    backend = run.detector_name.partition("/")[0]  # the name of a back end is that of its package
    lacks = [] if importlib.util.find_spec(backend) else [f"back end '{backend}' is not installed"]
    lacks += _weights(chain[0], backend)
    for item in chain:
        if item.detector.semantic_branch:
            lacks += _stuff_maps(item.dataset)
    lacks += [
        f"released file {released.file} ({table}) is missing in {paths.data_folder()}"
        for table, released in run.released.items()
        if not (paths.data_folder() / released.file).is_file()
    ]
    if run.dataset.synthetic is None:
        lacks += _data(run.dataset)
    return "\n".join(dict.fromkeys(lacks)) or None


def _weights(first: Run, backend: str) -> list[str]:
    """The initial weights, which only the first run of a chain needs."""
    settings = first.detector
    file = settings.weights_file
    known = zoo().weights_of(settings)
    where = f": {known.url}, SHA-256 {known.sha256}..." if known else ""
    if file is not None and not (working_root() / file).is_file():
        return [f"weight file {file} of {first.title} is missing{where}"]
    published = backend == "torchvision" and settings.backbone in HUB_COCO_BACKBONES
    if file is None and settings.init == "coco" and not published:
        preset = f"preset {first.detector_name}"
        remedy = f"name a file under its `weights: {{coco: FILE}}`{where}"
        return [f"torchvision publishes no COCO weights for {preset}: {remedy}"]
    return []


def _stuff_maps(dataset: Dataset) -> Iterator[str]:
    if dataset.train is None or dataset.train.stuff_maps is None:
        yield f"{dataset.name} has no stuff maps: take a detector without semantic branch"
        return
    maps = paths.split_file(dataset, "train", "stuff_maps")
    if not maps.exists():
        archive = next((file.archive for file in dataset.files if dataset.is_of_stuff(file)), None)
        yield f"{maps} is missing{_address(archive)}; longtail data prepare {dataset.name} --stuff-maps"


def _data(dataset: Dataset) -> Iterator[str]:
    """The dataset's files; if it does not list them, those of its splits."""
    files = {paths.data_folder() / file.path: file for file in dataset.files}
    for split in ("train", "val"):
        for part in ("annotations", "images"):
            path = paths.split_file(dataset, split, part)
            below = [item for item in files if path in (item, *item.parents)]
            for wanted in [path] if path in files or not below else below:
                file = files.get(wanted)
                stuff = file is not None and dataset.is_of_stuff(file)
                annotations_of_images = part == "images" and wanted.suffix == ".json"
                if wanted.exists() or path.exists() or stuff or annotations_of_images:
                    continue
                get = f"longtail data prepare {dataset.name}" if dataset.is_preparable else "put it there"
                how = f"{get}, or set LONGTAIL_DATA to the folder that holds it"
                yield f"{wanted} is missing{_address(file.archive if file else None)}; {how}"


def _address(archive: Archive | None) -> str:
    if archive is None:
        return ""
    checksum = f"SHA-256 {archive.sha256}" if archive.sha256 else "SHA-256 not published"
    return f": {archive.url}, {checksum}"
