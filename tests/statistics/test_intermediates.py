"""The folder of intermediate files is correct, complete or absent, and does not touch other files."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from training_files import write_training_file

from benchmark.annotations import AnnotationError
from benchmark.errors import FileError
from benchmark.statistics import (
    CLASS_WEIGHTS,
    ClassStatistics,
    StatisticsError,
    class_statistics,
    class_weight_table,
    copies_added_to_original,
    group_class_weights,
    group_tables,
    image_repeat_factors,
    inspect_intermediates,
    intermediates,
    write_intermediates,
)
from benchmark.statistics.class_tables import read_groups

REAL = Path("tests/data/lvis_val_100.json")
OWN = {"class_statistics.csv", "class_weights.csv", "groups.csv", "images.parquet", "category_images.parquet"}
OWN |= {"2bins/groups.csv", "8bins/groups.csv"}


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our files of the real validation file of a hundred images."""
    folder = tmp_path_factory.mktemp("real") / "out"
    write_intermediates(intermediates(REAL)[0], folder)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def test_the_pairs_of_category_and_image_are_those_of_the_file(real: Path) -> None:
    content = json.loads(REAL.read_text())
    counted = Counter((item["category_id"], item["image_id"]) for item in content["annotations"])
    annotated = {item["image_id"] for item in content["annotations"]}
    order = [image["id"] for image in content["images"] if image["id"] in annotated]
    images = pq.read_table(real / "images.parquet").to_pydict()
    assert images["image_id"] == order
    table = pq.read_table(real / "category_images.parquet").to_pydict()
    assert [order[position] for position in table["position"]] == table["image_id"]
    pairs = list(zip(table["category_id"], table["image_id"], strict=True))
    assert dict(zip(pairs, table["instances"], strict=True)) == dict(counted)
    assert len(pairs) == len(counted)
    keys = list(zip(table["category_id"], table["position"], strict=True))
    assert keys == sorted(keys)


def test_the_tables_are_those_of_the_functions(real: Path) -> None:
    statistics = class_statistics(REAL)
    again = ClassStatistics.read(real / "class_statistics.csv")
    assert again.instance_counts.tolist() == statistics.instance_counts.tolist()
    assert (again.vocabulary, again.num_annotated_images) == (
        statistics.vocabulary,
        statistics.num_annotated_images,
    )
    table = rows(real / "class_weights.csv")
    assert [row["name"] for row in table] == [*statistics.names, "background"]
    for name in CLASS_WEIGHTS:
        weights = class_weight_table(name, statistics.instance_counts)
        assert [float(row[name]) for row in table] == weights.tolist()
    for place, edges in (
        ("", [10, 100, 1000]),
        ("2bins", [100]),
        ("8bins", [5, 10, 50, 100, 500, 1000, 5000]),
    ):
        found = read_groups(real / place / "groups.csv", statistics)
        expected = group_tables(statistics.instance_counts, edges)
        assert found.edges == tuple(edges)
        assert np.array_equal(found.tables.targets, expected.targets)
        assert np.array_equal(found.tables.slices, expected.slices)
        weights = group_class_weights(statistics.instance_counts, expected)
        assert np.array_equal(found.weights, weights)
        own = weights[expected.group_of_label, np.arange(1230)]
        assert [float(row["weight"]) for row in rows(real / place / "groups.csv")] == own.tolist()


def test_repeat_factors_are_those_of_the_samplers(real: Path) -> None:
    content = intermediates(REAL)[0]
    per_image = [
        content.labels[content.positions == place].tolist() for place in range(len(content.image_ids))
    ]
    expected = image_repeat_factors(per_image, content.category_repeat_factors)
    written = pq.read_table(real / "images.parquet")["repeat_factor"].to_numpy()
    assert written.dtype == np.float32
    assert np.array_equal(written, expected)
    assert set(copies_added_to_original(written).tolist()) <= {1.0, *range(3, 10)}
    factors = [np.float32(row["repeat_factor"]) for row in rows(real / "class_weights.csv")]
    assert factors == [*content.category_repeat_factors, 1.0]


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_intermediates(intermediates(REAL)[0], tmp_path / name, upstream=True)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) == len(OWN) + 9 + 6


def test_counts_that_the_file_states_otherwise_are_told(tmp_path: Path) -> None:
    path = write_training_file(tmp_path / "train.json", [1, 2], [3, 4])
    assert intermediates(path)[1] == []
    path.write_text(path.read_text().replace('"instance_count": 4', '"instance_count": 40'))
    (sentence,) = intermediates(path)[1]
    assert "instance_count of 1 of 2 categories" in sentence
    assert "category 2 40 (counted 4)" in sentence


def test_a_file_without_annotations_or_with_unseen_categories(tmp_path: Path) -> None:
    path = write_training_file(tmp_path / "train.json", [4, 9, 2], [0, 0, 0])
    write_intermediates(intermediates(path)[0], tmp_path / "out", upstream=True)
    assert pq.read_table(tmp_path / "out" / "images.parquet").num_rows == 0
    assert any("3 classes, 0 pairs" in file.summary for file in inspect_intermediates(tmp_path / "out"))
    assert all(float(row["inverse_count"]) == 1 for row in rows(tmp_path / "out" / "class_weights.csv"))


@pytest.mark.parametrize("before", [None, "empty", "earlier", "link"])
def test_a_folder_of_ours_is_replaced_as_a_whole(before: str | None, tmp_path: Path) -> None:
    content, _ = intermediates(REAL)
    out = tmp_path / "out"
    if before == "empty":
        out.mkdir()
    elif before:
        write_intermediates(content, tmp_path / "target" if before == "link" else out, upstream=True)
    if before == "link":
        out.symlink_to(tmp_path / "target")
    write_intermediates(content, out, [50])
    assert set(files(out)) == OWN
    assert (out / "groups.csv").read_text().startswith("# edges: 50\n")
    assert out.is_symlink() == (before == "link")
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "target"}


@pytest.mark.parametrize(
    "foreign", ["lvis_v0.5_train.json", "2bins/mine.pt", "label2binlabel.pt", "deeper/x/groups.csv"]
)
def test_a_folder_with_other_files_is_left_alone(foreign: str, tmp_path: Path) -> None:
    (tmp_path / "out" / foreign).parent.mkdir(parents=True)
    (tmp_path / "out" / foreign).write_text("mine")
    with pytest.raises(StatisticsError, match=re.escape(foreign.split("/x")[0])):
        write_intermediates(intermediates(REAL)[0], tmp_path / "out", upstream=True)
    assert files(tmp_path) == {f"out/{foreign}": b"mine"}
    with pytest.raises(StatisticsError, match="is a file"):
        write_intermediates(intermediates(REAL)[0], tmp_path / "out" / foreign)


@pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize(
    ("earlier", "moment"),
    [(True, 0), (True, 11), (True, 20), (True, 21), (True, 22), (False, 5), (False, 21)],
)
def test_a_failing_write_leaves_the_folder_as_it_was(
    failure: BaseException, earlier: bool, moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``moment`` of the 21 files, or at one of the renames after them."""
    content, _ = intermediates(REAL)
    if earlier:
        write_intermediates(content, tmp_path / "out", [7])
    was = files(tmp_path)
    calls = 0
    for name in ("write_bytes", "rename"):
        real_method = getattr(Path, name)

        def failing(self: Path, *arguments: Any, real_method: Any = real_method) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment + 1:
                raise failure
            return real_method(self, *arguments)

        monkeypatch.setattr(Path, name, failing)
    with pytest.raises(FileError if isinstance(failure, OSError) else type(failure)):
        write_intermediates(content, tmp_path / "out", upstream=True)
    monkeypatch.undo()
    assert files(tmp_path) == was
    assert {path.name for path in tmp_path.iterdir()} == ({"out"} if earlier else set())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# edges: 10 100 1000", "# edges: 2 100 1000"),
        ("# edges: 10 100 1000", "# edges: 10 x"),
        ("id,name,group", "id,name,groups"),
        ("\n2,", "\n3,"),
        ("\n2,", "\n" + "9" * 5000 + ","),
        ("aerosol_can,1,2", "aerosol_can,2,2"),
        ("aerosol_can,1,2", "aerosol_can,1,1"),
        ("aerosol_can,1,2", "aerosol_can,1," + "9" * 30),
        ("\n1,acorn", "\nacorn"),
    ],
)
def test_a_damaged_table_of_groups_is_refused(old: str, new: str, real: Path, tmp_path: Path) -> None:
    text = (real / "groups.csv").read_text()
    assert old in text
    (tmp_path / "groups.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(StatisticsError, match=r"groups\.csv"):
        read_groups(tmp_path / "groups.csv", class_statistics(REAL))


def test_bad_input_ends_before_anything_is_written(tmp_path: Path) -> None:
    content, _ = intermediates(REAL)
    for edges in ([], [10, 10], [100, 10]):
        with pytest.raises(StatisticsError, match="edges"):
            write_intermediates(content, tmp_path / "out", edges)
    (tmp_path / "cut.json").write_bytes(REAL.read_bytes()[:5000])
    with pytest.raises(AnnotationError, match=r"cut\.json"):
        intermediates(tmp_path / "cut.json")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.json"]
