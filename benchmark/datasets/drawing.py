"""Drawing the annotation files of a subset from those of the whole dataset, with a record of the draw."""

from pathlib import Path
from typing import Any

from benchmark.annotations import Choice, subset_pair
from benchmark.errors import BenchmarkError
from benchmark.files import read_json, sha256_file, write_json
from benchmark.recipes.models import Dataset, Split

RECORD = "drawn.json"


def is_drawn(dataset: Dataset, data: Path) -> bool:
    """Whether both files of a subset in the folder ``data`` were drawn with its present definition."""
    try:
        record = read_json(data / _splits(dataset)[0].annotations.rpartition("/")[0] / RECORD)
    except BenchmarkError:
        return False  # not drawn yet, or interrupted before the record was written
    return isinstance(record, dict) and record == _record(dataset, data)


def draw(dataset: Dataset, data: Path) -> str:
    """Draw both files of a subset; returns a summary line for each.

    Raises ``AnnotationError`` if the files of the whole dataset cannot be read, have different categories, or
    do not have enough images or categories; ``FileError`` for errors of the system.
    """
    subset, whole = dataset.subset, dataset.whole
    assert subset is not None
    assert whole is not None
    train, val = _splits(dataset)
    sources = _splits(whole)
    text = subset_pair(
        data / sources[0].annotations,
        data / sources[1].annotations,
        data / train.annotations,
        data / val.annotations,
        images=subset.train_images,
        val_images=subset.val_images,
        seed=subset.seed,
        choice=Choice(subset.categories, tuple(subset.keep), tuple(subset.drop)),
    )
    write_json((data / train.annotations).with_name(RECORD), _record(dataset, data))
    return text


def _splits(dataset: Dataset) -> tuple[Split, Split]:
    assert dataset.train is not None
    assert dataset.val is not None
    return dataset.train, dataset.val


def _record(dataset: Dataset, data: Path) -> dict[str, Any] | None:
    """The definition of a subset and the content of its files; None if one of them is missing."""
    assert dataset.subset is not None
    files = [split.annotations for split in _splits(dataset)]
    if not all((data / file).is_file() for file in files):
        return None
    return {
        "subset": dataset.subset.model_dump(mode="json", exclude_defaults=True),
        "sha256": {file: sha256_file(data / file) for file in files},
    }
