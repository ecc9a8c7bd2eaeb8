"""The text about intermediate files has correct numbers and names, and no file is trusted."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_files import write_training_file

from benchmark.statistics import StatisticsError, inspect_intermediates, intermediates, write_intermediates

NAMES = ["ant", "bee", "cow", "dog", "elk", "fox"]
COUNTS = [12, 5, 1000, 100, 7, 250]


def text_of(path: Path, annotations: Path | None = None) -> str:
    return "\n".join(map(str, inspect_intermediates(path, annotations)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    path = write_training_file(folder / "train.json", [4, 6, 1, 3, 5, 2], COUNTS, names=NAMES)
    write_intermediates(intermediates(path)[0], folder / "out", upstream=True)
    return folder


def test_groups_sizes_and_names_of_a_folder(made: Path) -> None:
    text = text_of(made / "out")
    four, _, rest = text.partition("2bins/groups.csv: 2 groups of 6 categories\n")
    assert [line for line in four.splitlines() if "cls_weight" not in line] == [
        "groups.csv: 4 groups of 6 categories",
        "  group 1, below 10 instances: 2 categories",
        "    bee, elk",
        "  group 2, 10 to 99 instances: 1 categories",
        "    ant",
        "  group 3, 100 to 999 instances: 2 categories",
        "    dog, fox",
        "  group 4, from 1000 instances: 1 categories",
        "    cow",
        "label2binlabel.pt: the same groups",
        "pred_slice_with0.pt: 5 bins, logits 0 to 1, 2 to 4, 5 to 6, 7 to 9, 10 to 11",
        "valsplit.pkl: the same groups",
        "mask.pt: int64 (7,), values 0 to 1",
        "class_to_imageid_and_inscount.pt: 6 classes, 1374 pairs of class and image, 1374 instances",
    ]
    assert "cls_weight.pt: float64 (7,), values 0.1 to " in four
    assert "bins_cls_weight.pkl: float64 weights of 2, 1, 2, 1 categories" in four
    assert "group 8, from 5000 instances: 0 categories\n8bins/label2binlabel.pt" in rest


def test_one_file_of_a_release_with_and_without_names(made: Path, tmp_path: Path) -> None:
    for name in ("label2binlabel.pt", "valsplit.pkl"):
        shutil.copy(made / "out" / name, tmp_path)
    numbers = text_of(tmp_path / "label2binlabel.pt")
    assert "label2binlabel.pt: 4 groups of 6 categories\n  group 1: 2 categories\n    6, 5\n" in numbers
    for annotations in (made / "train.json", made / "out" / "class_statistics.csv"):
        split = text_of(tmp_path / "valsplit.pkl", annotations)
        assert "  (0, 10): 2 categories\n    bee, elk\n" in split
        assert "  [1000, ~): 1 categories\n    cow" in split
    assert "the same groups" in text_of(tmp_path)


def test_a_vocabulary_of_another_size_is_named(made: Path, tmp_path: Path) -> None:
    other = write_training_file(tmp_path / "other.json", [1, 2, 3], [4, 5, 6])
    for name in ("mask.pt", "valsplit.pkl"):
        shutil.copy(made / "out" / name, tmp_path)
        with pytest.raises(StatisticsError, match=r"6 classes\n.*3 categories"):
            inspect_intermediates(tmp_path / name, other)
    for path in (made / "out", made / "out" / "8bins" / "valsplit.pkl"):
        with pytest.raises(StatisticsError, match="id 1 is cow in the first, category 1 in the second"):
            inspect_intermediates(path, other)


@pytest.mark.parametrize("name", ["label2binlabel.pt", "pred_slice_with0.pt", "valsplit.pkl"])
def test_files_that_contradict_each_other_are_named(name: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(made / "out", folder)
    shutil.copy(folder / "2bins" / name, folder / name)
    with pytest.raises(StatisticsError, match=name) as error:
        inspect_intermediates(folder)
    assert "different groups" in str(error.value)


class Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


def test_a_payload_anywhere_in_the_folder_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "out", "out")
    Path("out/8bins/valsplit.pkl").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(StatisticsError, match="system"):
        inspect_intermediates("out")
    torch.save([torch.zeros(2), Attack()], "out/mask.pt")
    with pytest.raises(StatisticsError, match="system"):
        inspect_intermediates("out/mask.pt")
    assert not Path("canary").exists()


def test_a_folder_without_any_of_the_files_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.arange(3))
    with pytest.raises(StatisticsError, match="no intermediate file"):
        inspect_intermediates(tmp_path)
    with pytest.raises(StatisticsError, match="not the name"):
        inspect_intermediates(tmp_path / "array.npy")
