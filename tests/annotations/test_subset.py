"""A subset keeps every category, changes only counts, and is the same for the same seed."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.annotations import (
    AnnotationError,
    Choice,
    check_dataset,
    frequency_letter,
    subset_annotations,
    subset_pair,
)

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
    assert {problem.field for problem in check_dataset(output)} == {"bbox"}


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


@settings(max_examples=60)
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


def long_tail(path: Path, images: int, seed: int, first: int = 1, federated: bool = True) -> dict:
    """Forty categories, each in 0.8 times as many images as the previous one; some images are empty."""
    generator = np.random.default_rng(seed)
    frequency = 0.5 * 0.8 ** np.arange(40)
    present = generator.random((images, 40)) < frequency
    present[generator.permutation(images)[:40], range(40)] = True  # so that every category has an image
    lists = {"not_exhaustive_category_ids": [40]}
    content = {
        "images": [
            {"id": first + row, "width": 64, "height": 48, "file_name": f"{first + row}.jpg"}
            | ({**lists, "neg_category_ids": [int(row % 40) + 1]} if federated else {})
            for row in range(images)
        ],
        "annotations": [
            {"id": n + 1, "image_id": first + int(row), "category_id": int(label) + 1, "bbox": [1, 1, 9, 9]}
            | {"area": 81}
            for n, (row, label) in enumerate(np.argwhere(present))
        ],
        "categories": [
            {"id": label + 1, "name": f"c{label}", "frequency": "f", "image_count": 0, "instance_count": 0}
            for label in range(40)
        ],
    }
    path.write_text(json.dumps(content))
    return content


def image_counts(content: dict) -> Counter[int]:
    pairs = {(item["image_id"], item["category_id"]) for item in content["annotations"]}
    return Counter(category for _, category in pairs)


def pair(folder: Path, **options) -> tuple[dict, dict]:
    outputs = folder / "small_train.json", folder / "small_val.json"
    subset_pair(folder / "train.json", folder / "val.json", *outputs, **options)
    return tuple(json.loads(path.read_text()) for path in outputs)


@pytest.fixture
def source(tmp_path) -> Path:
    long_tail(tmp_path / "train.json", 3000, 0)
    long_tail(tmp_path / "val.json", 1000, 1, first=5000)
    return tmp_path


def test_a_pair_has_every_category_in_both_files_and_the_letters_of_training(source):
    train, val = pair(source, images=300, val_images=150)
    assert (len(train["images"]), len(val["images"])) == (300, 150)
    counts, val_counts = image_counts(train), image_counts(val)
    assert set(counts) == set(val_counts) == set(range(1, 41))
    for ours, theirs in zip(train["categories"], val["categories"], strict=True):
        assert ours["frequency"] == theirs["frequency"] == frequency_letter(counts[ours["id"]])
        assert (ours["image_count"], theirs["image_count"]) == (counts[ours["id"]], val_counts[ours["id"]])
    outputs = source / "small_train.json", source / "small_val.json"
    assert [problem for problem in check_dataset(*outputs) if problem.severity == "error"] == []
    assert not any("frequency" in problem.what for problem in check_dataset(*outputs))


@pytest.mark.parametrize("seed", range(3))
def test_categories_keep_their_share_of_the_images(source, seed):
    """Up to chance. Drawing images with many categories first would favour frequent categories."""
    small, _ = pair(source, images=600, val_images=150, seed=seed)
    before, after = image_counts(json.loads((source / "train.json").read_text())), image_counts(small)
    expected = np.array([before[id_] / 5 for id_ in range(1, 41)])
    found = np.array([after[id_] for id_ in range(1, 41)])
    many = expected >= 20
    assert abs(np.log(found[many] / expected[many]).mean()) < 0.08
    assert np.all(abs(found - expected)[many] < 5 * np.sqrt(expected[many]))
    assert found.min() >= 1


def test_a_number_of_categories_spans_the_frequencies(source):
    train, val = pair(source, images=300, val_images=150, choice=Choice(8))
    before = image_counts(json.loads((source / "train.json").read_text()))
    ids = [category["id"] for category in train["categories"]]
    assert ids == [category["id"] for category in val["categories"]]
    ranks = sorted(sorted(before, key=lambda id_: (before[id_], id_)).index(id_) for id_ in ids)
    assert np.diff(ranks).tolist() == [5] * 7
    for content in (train, val):
        assert {item["category_id"] for item in content["annotations"]} == set(ids)
        present = {item["image_id"] for item in content["annotations"]}
        for image in content["images"]:
            assert set(image["neg_category_ids"]) <= set(ids)
            assert image["not_exhaustive_category_ids"] == ([40] if 40 in ids else [])
            assert image["id"] in present or (content is val and image["neg_category_ids"])


def test_categories_are_kept_and_dropped_by_name_or_id(source):
    train, _ = pair(source, images=50, val_images=20, choice=Choice(keep=("c0", "2", "c2"), drop=("2",)))
    assert [category["name"] for category in train["categories"]] == ["c0", "c2"]
    with pytest.raises(AnnotationError, match="did you mean 'c12'"):
        pair(source, images=50, val_images=20, choice=Choice(keep=("c12x",)))
    with pytest.raises(AnnotationError, match="1 to 39"):
        pair(source, images=50, val_images=20, choice=Choice(40, drop=("c0",)))


def test_validation_keeps_images_that_tell_of_an_absence(tmp_path):
    """In the COCO format every image does; training does not need them."""
    for federated, part in ((False, None), (True, "fewer images of these categories")):
        long_tail(tmp_path / "train.json", 200, 0, federated=federated)
        long_tail(tmp_path / "val.json", 200, 1, first=500, federated=federated)
        rare = Choice(keep=("c39",))
        with pytest.raises(AnnotationError, match="fewer images of these categories"):
            pair(tmp_path, images=150, val_images=150, choice=rare)
        if part is None:
            _, val = pair(tmp_path, images=1, val_images=150, choice=rare)
            assert len(val["images"]) == 150
        else:
            with pytest.raises(AnnotationError, match=part):
                pair(tmp_path, images=1, val_images=150, choice=rare)


def test_files_of_different_categories_are_no_pair_and_nothing_is_written(source):
    other = json.loads((source / "val.json").read_text())
    other["categories"][3]["name"] = "another"
    (source / "val.json").write_text(json.dumps(other))
    with pytest.raises(AnnotationError, match="id 4 is another"):
        pair(source, images=300, val_images=150)
    with pytest.raises(AnnotationError, match="two files"):
        subset_pair(
            *(source / "train.json", source / "train.json", source / "o.json", source / "o.json"),
            images=100,
            val_images=100,
        )
    assert {path.name for path in source.iterdir()} == {"train.json", "val.json"}


def test_the_draw_depends_on_nothing_of_the_machine(tmp_path):
    """Images are ordered by the SHA-256 of seed and id, not by the order of sets or generators."""
    content = {
        "images": [{"id": 7 * i} for i in range(100)],
        "annotations": [{"id": i, "image_id": 7 * i, "category_id": 1} for i in range(100)],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    keys = {
        7 * i: hashlib.sha256("\x1f".join(["3", "subset", str(7 * i)]).encode()).hexdigest()
        for i in range(100)
    }
    expected = set(sorted(keys, key=lambda id_: keys[id_])[:30])
    for hash_seed in ("0", "1"):
        command = [sys.executable, "-m", "benchmark.cli", "subset", "all.json", "--images", "30"]
        subprocess.run(
            [*command, "--seed", "3", "-o", f"{hash_seed}.json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
        )
        drawn = json.loads((tmp_path / f"{hash_seed}.json").read_text())
        assert {image["id"] for image in drawn["images"]} == expected
