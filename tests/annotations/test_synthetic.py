"""The generated dataset is a valid LVIS v1 file with a realistic long tail, and has the same bytes every
time."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from pycocotools import mask as mask_utils

from benchmark.annotations import (
    AnnotationError,
    annotation_rle,
    check_annotations,
    frequency_letter,
    lvis_tail,
    read_annotations,
    synthesize_dataset,
)
from benchmark.annotations import synthetic as module
from benchmark.recipes.catalog import read_dataset, yaml_file
from benchmark.recipes.models import Synthetic
from benchmark.statistics import class_statistics
from benchmark.steps import dataset_steps

SMALL = Synthetic(train_images=24, val_images=8, image_size=96, categories=6, seed=5)


@pytest.fixture(scope="module")
def small_dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    synthesize_dataset(SMALL, folder)
    return folder


def test_both_splits_are_sound_files_with_every_image(small_dataset):
    for split, number in (("train", 24), ("val", 8)):
        assert check_annotations(small_dataset / f"{split}.json", small_dataset / "images") == []
        assert len(list((small_dataset / "images").glob(f"{split}_*.png"))) == number
        content = json.loads((small_dataset / f"{split}.json").read_text())
        assert {"info", "licenses", "images", "annotations", "categories"} == content.keys()
        assert {"file_name", "coco_url", "flickr_url", "license", "date_captured"} <= content["images"][
            0
        ].keys()
        assert {"synset", "def", "synonyms", "name", "frequency"} <= content["categories"][0].keys()
    assert sorted(path.name for path in small_dataset.iterdir()) == ["images", "train.json", "val.json"]


def test_the_same_options_give_the_same_bytes_and_others_do_not(small_dataset, tmp_path):
    synthesize_dataset(SMALL, tmp_path / "again")
    synthesize_dataset(SMALL.model_copy(update={"seed": 6}), tmp_path / "other")
    for path in (path for path in small_dataset.rglob("*") if path.is_file()):
        name = path.relative_to(small_dataset)
        assert (tmp_path / "again" / name).read_bytes() == path.read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != path.read_bytes()


def test_masks_cover_what_is_painted_and_do_not_overlap(small_dataset):
    """Polygons show the visible part: the masks of an image are disjoint, with saturated colours inside."""
    file = read_annotations(small_dataset / "train.json")
    groups = file.annotations_by_image()
    outside = []
    for image in file.images:
        if image.not_exhaustive_category_ids:
            continue
        masks = [mask_utils.decode(annotation_rle(item, 96, 96)).astype(int) for item in groups[image.id]]
        for item, mask in zip(groups[image.id], masks, strict=True):
            assert mask.sum() == pytest.approx(item.area, rel=0.2, abs=15)
        total = np.sum(masks, axis=0)
        assert (total > 1).mean() < 0.02
        pixels = np.asarray(PILImage.open(small_dataset / "images" / image.relative_path)).astype(float)
        colourful = np.ptp(pixels, axis=2) > 120
        outside.append((colourful & (total == 0)).sum() / colourful.sum())
    assert np.mean(outside) < 0.05


def test_the_default_size_has_the_real_shape_of_the_tail():
    """600 images and 40 categories have LVIS v1's proportions 337 / 461 / 405 with its thresholds."""
    options = Synthetic()
    ranks, looks = module._vocabulary(options.categories)
    train, val = module._train_counts(options, ranks), module._val_counts(options, ranks)
    letters = [frequency_letter(int(count)) for count in train]
    assert Counter(letters) == {"r": 11, "c": 15, "f": 14}
    assert letters == [group for group, _ in ranks]
    assert train.min() == 1
    assert 200 < train.max() <= 252
    assert val.min() >= 4
    assert len(set(looks)) == 40
    frequent = [look for look, letter in zip(looks, letters, strict=True) if letter == "f"]
    for look, letter in zip(looks, letters, strict=True):
        if letter != "f":
            shared = [
                (look.shape == other.shape) + (look.texture == other.texture) + (look.colour == other.colour)
                for other in frequent
            ]
            assert max(shared) == 2


def test_the_categories_for_pretraining_are_others():
    smoke, pretraining = (
        read_dataset(yaml_file("datasets", name)).synthetic for name in ("synthetic", "synthetic_pretraining")
    )
    assert pretraining.other_than == smoke.categories
    _, known = module._vocabulary(smoke.categories)
    ranks, others = module._vocabulary(pretraining.categories, pretraining.other_than)
    assert not set(known) & set(others)
    assert len(set(others)) == len(ranks) == pretraining.categories
    with pytest.raises(ValueError, match="other_than"):
        Synthetic(categories=150, other_than=80)


def test_the_counts_are_those_that_were_asked_for_and_letters_are_by_train_images(small_dataset):
    ranks, _ = module._vocabulary(SMALL.categories)
    train, val = class_statistics(small_dataset / "train.json"), class_statistics(small_dataset / "val.json")
    assert train.image_counts.tolist() == module._train_counts(SMALL, ranks).tolist()
    assert val.image_counts.tolist() == module._val_counts(SMALL, ranks).tolist()
    assert list(train.frequencies) == [frequency_letter(int(count)) for count in train.image_counts]
    assert train.frequencies == val.frequencies
    assert {"r", "c"} <= set(train.frequencies)
    assert train.vocabulary == val.vocabulary


def test_no_image_is_empty(small_dataset):
    assert all(read_annotations(small_dataset / "train.json").annotations_by_image().values())


def test_an_unannotated_object_is_declared(tmp_path):
    """One annotation of the category remains, so the image counts for the category."""
    synthesize_dataset(SMALL.model_copy(update={"train_images": 60, "image_size": 64}), tmp_path / "data")
    file = read_annotations(tmp_path / "data/train.json")
    groups = file.annotations_by_image()
    declared = [image for image in file.images if image.not_exhaustive_category_ids]
    assert declared
    for image in declared:
        present = {item.category_id for item in groups[image.id]}
        assert set(image.not_exhaustive_category_ids) <= present
        assert not set(image.neg_category_ids) & present


LVIS = Synthetic(train_images=201, val_images=201, image_size=240, categories=1203, counts="lvis_v1", seed=2)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lvis") / "data"
    synthesize_dataset(LVIS, folder)
    return folder


def test_the_counts_of_lvis_are_those_of_its_table():
    with (Path(__file__).parents[1] / "data" / "lvis_v1_categories.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert lvis_tail.COUNTS.read_text() == Path(file.name).read_text()
    design = lvis_tail.LvisTail({"train": lvis_tail.TRAIN_IMAGES}, 480, 0)
    assert sorted(design.targets["train"]) == sorted(int(row["image_count"]) for row in rows)
    assert Counter(design.letters) == Counter(row["frequency"] for row in rows)
    for letter, low, high in (("r", 1, 10), ("c", 11, 100), ("f", 101, 2000)):
        own = [n for n, of in zip(design.targets["train"], design.letters, strict=True) if of == letter]
        assert low <= min(own) <= max(own) <= high
    assert len(set(design.looks)) == 1203
    frequent = [look for look, of in zip(design.looks, design.letters, strict=True) if of == "f"]
    others = [look for look, of in zip(design.looks, design.letters, strict=True) if of != "f"]
    near = {look for other in frequent for look in lvis_tail._neighbours(other, 0)}
    assert len(near & set(others)) > 0.99 * len(others)


def test_federated_lists_and_crowds_are_like_those_of_lvis(crowded):
    """A valid file with a dozen objects per image, grouped by category, and lists as long as LVIS's."""
    for split in ("train", "val"):
        assert check_annotations(crowded / f"{split}.json", crowded / "images") == []
    file = read_annotations(crowded / "train.json")
    groups = file.annotations_by_image()
    present = {image: {item.category_id for item in items} for image, items in groups.items()}
    pairs = sum(map(len, present.values()))
    assert 1.2 < len(file.annotations) / pairs < 4
    assert len(file.annotations) / len(file.images) > 10
    absent = [len(image.neg_category_ids) for image in file.images]
    assert np.mean(absent) == pytest.approx(lvis_tail.ABSENT, rel=0.1)
    assert not any(set(image.neg_category_ids) & present[image.id] for image in file.images)
    open_ended = sum(len(image.not_exhaustive_category_ids) for image in file.images)
    assert 0.01 < open_ended / pairs < 0.08


def test_masks_of_crowds_cover_what_is_painted_and_do_not_overlap(crowded):
    file = read_annotations(crowded / "val.json")
    groups = file.annotations_by_image()
    for image in file.images[:20]:
        if image.not_exhaustive_category_ids:
            continue
        masks = [mask_utils.decode(annotation_rle(item, 240, 240)).astype(int) for item in groups[image.id]]
        total = np.sum(masks, axis=0)
        assert (total > 1).mean() < 0.02
        pixels = np.asarray(PILImage.open(crowded / "images" / image.relative_path)).astype(float)
        colourful = np.ptp(pixels, axis=2) > 120
        assert (colourful & (total == 0)).sum() < 0.08 * colourful.sum()


def test_counts_and_the_number_of_categories_belong_together():
    with pytest.raises(ValueError, match="need counts"):
        Synthetic(categories=1203)
    with pytest.raises(ValueError, match="1203 categories"):
        Synthetic(counts="lvis_v1")


def test_the_key_of_a_dataset_without_counts_is_as_before_there_were_any():
    """Its bytes are unchanged too: the canary has those of a small dataset."""
    known = {"train_images", "val_images", "image_size", "categories", "seed"}
    for name, more in (("synthetic", set()), ("synthetic_lvis", {"counts"})):
        step = dataset_steps(read_dataset(yaml_file("datasets", name)))[0]
        assert step.reads.keys() == known | more


LIMITED = """
import resource, sys
from benchmark.annotations import synthesize_dataset
from benchmark.errors import BenchmarkError
from benchmark.recipes.models import Synthetic
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    options = Synthetic(train_images=3, val_images=2, image_size=64, categories=3, seed=1)
    synthesize_dataset(options, sys.argv[1])
except BenchmarkError as error:
    sys.exit(str(error))
"""


def test_other_files_survive_and_a_failure_leaves_the_old_dataset(tmp_path):
    folder = tmp_path / "data"
    tiny = Synthetic(train_images=3, val_images=2, image_size=64, categories=3)
    synthesize_dataset(tiny, folder)
    (folder / "class_statistics.csv").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    failed = subprocess.run([sys.executable, "-c", LIMITED, folder], capture_output=True, text=True)
    assert "ulimit" in failed.stderr
    assert failed.returncode == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [folder]
    synthesize_dataset(tiny.model_copy(update={"seed": 1}), folder)
    assert (folder / "class_statistics.csv").read_text() == "mine"
    assert (folder / "train.json").read_bytes() != before[folder / "train.json"]


def test_more_categories_than_images_can_hold_is_refused(tmp_path):
    with pytest.raises(AnnotationError, match="too few val images"):
        synthesize_dataset(Synthetic(train_images=50, val_images=2, categories=40), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=8)
@given(st.integers(3, 200), st.integers(0, 3), st.integers(0, 25))
def test_every_size_gives_a_sound_dataset(tmp_path_factory, categories, seed, more):
    folder = tmp_path_factory.mktemp("sizes") / "data"
    images = -(-categories // 6) + more
    options = Synthetic(
        train_images=images, val_images=-(-categories // 6), image_size=64, categories=categories, seed=seed
    )
    synthesize_dataset(options, folder)
    for split in ("train", "val"):
        assert check_annotations(folder / f"{split}.json", folder / "images") == []
        assert class_statistics(folder / f"{split}.json").image_counts.min() >= 1
