"""The generated dataset is a sound LVIS v1 file with the real long tail, and the same bytes every time."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_utils

from benchmark.annotations import (
    AnnotationError,
    annotation_rle,
    check_annotations,
    frequency_letter,
    read_annotations,
    synthesize_dataset,
)
from benchmark.annotations import synthetic as module
from benchmark.recipes.models import Synthetic
from benchmark.statistics import class_statistics

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
    """Polygons are of the visible region: masks of an image are disjoint, and saturated colour is inside."""
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
        pixels = np.asarray(Image.open(small_dataset / "images" / image.relative_path)).astype(float)
        colourful = np.ptp(pixels, axis=2) > 120
        outside.append((colourful & (total == 0)).sum() / colourful.sum())
    assert np.mean(outside) < 0.05


def test_the_smoke_size_has_the_real_shape_of_the_tail():
    """600 images and 40 categories: LVIS v1's proportions 337 / 461 / 405, with its thresholds."""
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
    """One annotation of the category remains, so the image still counts for it."""
    synthesize_dataset(SMALL.model_copy(update={"train_images": 60, "image_size": 64}), tmp_path / "data")
    file = read_annotations(tmp_path / "data/train.json")
    groups = file.annotations_by_image()
    declared = [image for image in file.images if image.not_exhaustive_category_ids]
    assert declared
    for image in declared:
        present = {item.category_id for item in groups[image.id]}
        assert set(image.not_exhaustive_category_ids) <= present
        assert not set(image.neg_category_ids) & present


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


@settings(max_examples=8, deadline=None)
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
