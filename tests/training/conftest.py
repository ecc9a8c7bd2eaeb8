"""A tiny generated dataset in a working directory of its own, as the workflow lays it out."""

from pathlib import Path

import pytest

from benchmark.annotations import synthesize_dataset
from benchmark.recipes import load_dataset
from benchmark.recipes.paths import annotations_path, dataset_folder, statistics_path
from benchmark.statistics import class_statistics


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated dataset ``synthetic_tiny`` and its statistics."""
    folder = tmp_path_factory.mktemp("training")
    dataset = load_dataset("synthetic_tiny")
    assert dataset.synthetic is not None
    synthesize_dataset(dataset.synthetic, folder / dataset_folder(dataset))
    statistics = class_statistics(folder / annotations_path(dataset, "train"))
    statistics.write(folder / statistics_path(dataset))
    return folder


@pytest.fixture
def inside(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make that folder the working directory."""
    monkeypatch.chdir(workplace)
    return workplace
