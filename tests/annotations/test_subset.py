"""A subset keeps every category, changes nothing but counts, and is the same for the same seed."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.annotations import AnnotationError, check_annotations, frequency_letter, subset_annotations

REAL = Path("tests/data/lvis_val_100.json")


def test_a_subset_of_the_real_file_is_a_consistent_part_of_it(tmp_path):
    output = tmp_path / "new" / "subset.json"
    line = subset_annotations(REAL, output, 90, 3)
    assert "90 of 100 images" in line
    source, subset = json.loads(REAL.read_text()), json.loads(output.read_text())
    assert subset.keys() == source.keys()
    assert (subset["info"], subset["licenses"]) == (source["info"], source["licenses"])
    assert len(subset["images"]) == 90
    kept = {image["id"] for image in subset["images"]}
    assert subset["images"] == [image for image in source["images"] if image["id"] in kept]
    assert subset["annotations"] == [item for item in source["annotations"] if item["image_id"] in kept]
    assert {item["category_id"] for item in subset["annotations"]} == {
        item["category_id"] for item in source["annotations"]
    }
    instances = Counter(item["category_id"] for item in subset["annotations"])
    images = Counter(
        c for _, c in {(item["image_id"], item["category_id"]) for item in subset["annotations"]}
    )
    for before, after in zip(source["categories"], subset["categories"], strict=True):
        count = images[before["id"]]
        counts = {"image_count": count, "instance_count": instances[before["id"]]}
        assert after == before | counts | {"frequency": frequency_letter(count)}
    assert {problem.field for problem in check_annotations(output)} == {"bbox"}


def test_same_seed_same_bytes_other_seed_other_images(tmp_path):
    files = [tmp_path / name for name in "abc"]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        subset_annotations(REAL, file, 90, seed)
    first, second, third = (file.read_bytes() for file in files)
    assert first == second
    assert first != third


def test_too_few_images_names_the_least_number_and_that_number_works(tmp_path):
    output = tmp_path / "subset.json"
    with pytest.raises(AnnotationError, match="at least") as caught:
        subset_annotations(REAL, output, 1, 0)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert list(tmp_path.iterdir()) == []
    subset_annotations(REAL, output, least, 0)
    with pytest.raises(AnnotationError):
        subset_annotations(REAL, output, least - 1, 0)
    with pytest.raises(AnnotationError, match="fewer images"):
        subset_annotations(REAL, output, 101, 0)


def test_a_source_may_be_replaced_by_its_subset(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(REAL.read_bytes())
    subset_annotations(path, path, 95, 0)
    assert len(json.loads(path.read_text())["images"]) == 95


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(1, 6)), min_size=1, max_size=10).filter(any),
    st.integers(0, 5),
    st.data(),
)
def test_every_category_with_an_image_keeps_one(tmp_path_factory, categories_of, seed, data):
    folder = tmp_path_factory.mktemp("subset")
    content = {
        "images": [{"id": 10 + i} for i in range(len(categories_of))],
        "annotations": [
            {"id": 100 * i + c, "image_id": 10 + i, "category_id": c}
            for i, categories in enumerate(categories_of)
            for c in categories
        ],
        "categories": [{"id": c, "name": str(c)} for c in range(1, 7)],
    }
    (folder / "all.json").write_text(json.dumps(content))
    number = data.draw(st.integers(min(6, len(categories_of)), len(categories_of)))
    subset_annotations(folder / "all.json", folder / "part.json", number, seed)
    part = json.loads((folder / "part.json").read_text())
    assert len(part["images"]) == number
    assert {item["category_id"] for item in part["annotations"]} == set().union(*categories_of)
    assert part["categories"] == content["categories"]
