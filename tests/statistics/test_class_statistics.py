"""Counts are correct, survive writing and reading, and equal the published ones."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.annotations import AnnotationError
from benchmark.statistics import (
    ClassStatistics,
    StatisticsError,
    class_statistics,
    class_statistics_with_differences,
    frequency_letter,
    inspect_intermediates,
    intermediates,
    write_intermediates,
)

DATA = Path("tests/data")
REAL = DATA / "lvis_val_100.json"


@pytest.mark.parametrize(
    ("name", "groups", "images", "instances", "unseen", "most", "bins"),
    [
        ("lvis_v0.5", (454, 461, 315), 201_417, 693_958, 0, 26_148, (294, 453, 302, 181)),
        ("lvis_v1", (337, 461, 405), 360_952, 1_270_141, 0, 50_552, (200, 412, 334, 257)),
        ("lvis_v0.5_val", (454, 461, 315), 15_532, 50_763, 400, 1_804, (807, 268, 152, 3)),
    ],
)
def test_the_published_tables_have_the_published_sums(name, groups, images, instances, unseen, most, bins):
    table = ClassStatistics.read(DATA / f"{name}_categories.csv")
    assert tuple(table.frequencies.count(letter) for letter in "rcf") == groups
    assert (table.image_counts.sum(), table.instance_counts.sum()) == (images, instances)
    assert (table.image_counts == 0).sum() == unseen
    assert table.instance_counts.max() == most
    assert table.names[table.instance_counts.argmax()] == "banana"
    assert np.histogram(table.instance_counts, [0, 10, 100, 1000, 10**9])[0].tolist() == list(bins)
    assert table.num_classes == sum(groups)
    assert table.num_images is None
    assert table.vocabulary is None
    if not name.endswith("val"):
        assert list(table.frequencies) == [frequency_letter(int(count)) for count in table.image_counts]


def test_the_real_file_is_counted_as_python_counts_it(tmp_path):
    statistics = class_statistics(REAL)
    content = json.loads(REAL.read_text())
    pairs = {(item["image_id"], item["category_id"]) for item in content["annotations"]}
    images = Counter(category for _, category in pairs)
    instances = Counter(item["category_id"] for item in content["annotations"])
    assert statistics.image_counts.tolist() == [images[i] for i in statistics.category_ids.tolist()]
    assert statistics.instance_counts.tolist() == [instances[i] for i in statistics.category_ids.tolist()]
    assert (statistics.num_images, statistics.num_annotations) == (100, 977)
    assert statistics.num_annotated_images == len({image for image, _ in pairs})
    assert statistics.frequencies.count("f") == 315  # the file's letters, which are the training set's
    assert "1230 categories" in statistics.summary()


def same(left: ClassStatistics, right: ClassStatistics) -> bool:
    return all(
        np.array_equal(getattr(left, name), getattr(right, name)) for name in left.__dataclass_fields__
    )


def test_a_table_is_read_as_it_was_written(tmp_path):
    statistics = class_statistics(REAL)
    statistics.write(tmp_path / "table.csv")
    assert same(ClassStatistics.read(tmp_path / "table.csv"), statistics)
    plain = ClassStatistics.read(DATA / "lvis_v1_categories.csv")
    plain.write(tmp_path / "plain.csv")
    assert (tmp_path / "plain.csv").read_text() == (DATA / "lvis_v1_categories.csv").read_text().replace(
        "\r", ""
    )


@settings(max_examples=40)
@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_any_name_survives(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("names") / "file.json"
    categories = [{"id": 3 * i, "name": name} for i, name in enumerate(names)]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    assert_names_survive(path, names)


@pytest.mark.parametrize(
    "end", ["\r", "\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", '"', ",", "#"]
)
def test_line_ends_in_names_survive(tmp_path, end):
    """``str.splitlines`` splits at nine more characters than CSV."""
    path = tmp_path / "file.json"
    names = [f"a{end}b", f"{end}a", f"a{end}", end, f"{end}{end}"]
    categories = [{"id": 3 * i, "name": name} for i, name in enumerate(names)]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    assert_names_survive(path, names)


def assert_names_survive(path, names):
    statistics = class_statistics(path)
    statistics.write(path.with_suffix(".csv"))
    assert same(ClassStatistics.read(path.with_suffix(".csv")), statistics)
    assert statistics.names == tuple(names)
    folder = path.parent / "intermediates"
    write_intermediates(intermediates(path)[0], folder, [10, 100])
    assert inspect_intermediates(folder)


HEAD = "id,name,frequency,image_count,instance_count\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table"),
        ("a,b\n1,2\n", "a,b"),
        (HEAD, "ascend"),
        (HEAD + "2,a,r,1,1\n1,b,r,1,1\n", "ascend"),
        (HEAD + "1,a,r,1\n", "line 2"),
        (HEAD + "1,a,r,1,1\n2,b,x,1,1\n", "line 3"),
        (HEAD + "1,a,r,-1,1\n", "image_count"),
        (HEAD + "1,a,r,1,1.5\n", "instance_count"),
        (HEAD + f"{10**30},a,r,1,1\n", "id is not"),
        (HEAD + "1,a,r,2,1\n", "more images than instances"),
        ("# num_images: many\n" + HEAD + "1,a,r,1,1\n", "num_images"),
        ("# vocabulary: 00\n" + HEAD + "1,a,r,1,1\n", "vocabulary"),
        ("\x00\x01", "not a table"),
    ],
)
def test_a_damaged_table_is_one_message_that_says_where(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(StatisticsError, match=message):
        ClassStatistics.read(path)


def test_a_binary_file_is_no_table(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StatisticsError, match="not a text file"):
        ClassStatistics.read(tmp_path / "table.csv")


def coco(tmp_path: Path, **changes: object) -> Path:
    content = {
        "images": [{"id": i} for i in range(200)],
        "annotations": [{"image_id": i, "category_id": 7} for i in range(150)]
        + [{"image_id": 0, "category_id": 3, "iscrowd": 1}] * 2,
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}, {"id": 5, "name": "unseen"}],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_without_letters_the_counts_give_them(tmp_path):
    statistics = class_statistics(coco(tmp_path))
    assert statistics.category_ids.tolist() == [3, 5, 7]
    assert statistics.frequencies == ("r", "r", "f")
    assert statistics.image_counts.tolist() == [1, 0, 150]
    assert statistics.instance_counts.tolist() == [2, 0, 150]
    assert (statistics.num_images, statistics.num_annotated_images) == (200, 150)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"image_id": 500, "category_id": 7}]}, "image_id 500"),
        ({"annotations": [{"image_id": 1, "category_id": 8}]}, "category_id 8"),
        ({"annotations": [{"image_id": 1}]}, "missing required field `category_id`"),
        ({"annotations": [{"image_id": 2**66, "category_id": 7}]}, r"annotations\[0\]\.image_id"),
        ({"images": []}, "image_id"),
        ({"categories": []}, "unique"),
        ({"categories": [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]}, "unique"),
    ],
)
def test_contradictory_files_are_refused(tmp_path, changes, message):
    with pytest.raises(AnnotationError, match=message):
        class_statistics(coco(tmp_path, **changes))


def test_differences_name_the_fields_that_are_not_of_this_file(tmp_path):
    statistics, differences = class_statistics_with_differences(REAL)
    assert same(statistics, class_statistics(REAL))
    (letters,) = differences  # its counts are right, its letters the training set's
    assert letters.startswith("frequency of ")
    content = json.loads(REAL.read_text())
    content["categories"][3]["instance_count"] = 12345
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    _, differences = class_statistics_with_differences(path)
    assert any("instance_count of 1 of 1230" in line and "12345" in line for line in differences)
    assert class_statistics_with_differences(coco(tmp_path))[1] == []
