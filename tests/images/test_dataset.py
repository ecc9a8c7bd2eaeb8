"""Boxes and masks follow their image through resizing and flipping; draws depend on the position alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from pycocotools import mask as coco_mask

from benchmark.annotations import annotation_rle, read_annotations
from benchmark.images import ImageError, Target, TestImages, TrainImages, load
from benchmark.images.dataset import resized
from benchmark.recipes.detector_settings import DetectorSettings

SETTINGS = DetectorSettings(
    architecture="mask_rcnn",
    backbone="resnet18",
    train_short_edges=[48, 64, 96],
    test_short_edge=64,
    long_edge=128,
    flip_probability=0.5,
)
DATA = Path("results/data/synthetic_tiny/synthesize")


def train_images(
    seed: int = 0, *, augment: bool = True, settings: DetectorSettings = SETTINGS
) -> TrainImages:
    annotations = read_annotations(DATA / "train.json")
    return TrainImages(annotations, DATA / "images", settings, seed, masks=True, augment=augment)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((400, 1000), (533, 1333)),
        ((5, 4000), (2, 1333)),
    ],
)
def test_short_side_unless_the_long_one_passes_its_bound(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized(*size, 800, 1333) == expected


@pytest.mark.usefixtures("inside")
def test_masks_fill_their_boxes_after_every_augmentation() -> None:
    data = train_images()
    sizes = set()
    for position in range(60):
        sample = data[position % len(data), position]
        assert sample.target is not None
        assert sample.target.masks is not None
        height, width = sample.image.shape[1:]
        sizes.add(height)
        assert sample.target.masks.shape == (len(sample.target.labels), height, width)
        assert sample.image.min() >= 0
        assert sample.image.max() <= 1
        for box, mask in zip(sample.target.boxes, sample.target.masks, strict=True):
            y, x = mask.nonzero(as_tuple=True)
            found = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
            assert (found - box).abs().max() <= 2.5 * height / 64
    assert sizes == {48, 64, 96}


@pytest.mark.usefixtures("inside")
def test_half_of_the_images_are_mirrored() -> None:
    always, never = (
        train_images(settings=SETTINGS.model_copy(update={"flip_probability": p, "train_short_edges": [64]}))
        for p in (1.0, 0.0)
    )
    plain, mirrored = never[3, 0], always[3, 0]
    torch.testing.assert_close(mirrored.image, plain.image.flip(-1))
    assert plain.target is not None
    assert mirrored.target is not None
    assert mirrored.target.masks is not None
    assert plain.target.masks is not None
    assert mirrored.target.masks.equal(plain.target.masks.flip(-1))
    torch.testing.assert_close(mirrored.target.boxes[:, 0], 64 - plain.target.boxes[:, 2])
    data = train_images(settings=SETTINGS.model_copy(update={"train_short_edges": [64]}))
    flips = [not data[3, position].image.equal(plain.image) for position in range(200)]
    assert 0.4 < np.mean(flips) < 0.6


@pytest.mark.usefixtures("inside")
def test_draws_depend_on_seed_and_position_not_on_global_state() -> None:
    torch.manual_seed(1)
    first = [train_images(5)[1, position].image for position in range(12)]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = [train_images(5)[1, position].image for position in range(12)]
    assert state.equal(torch.get_rng_state())
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    other = [train_images(6)[1, position].image for position in range(12)]
    assert any(a.shape != b.shape or not a.equal(b) for a, b in zip(first, other, strict=True))


@pytest.mark.usefixtures("inside")
def test_a_plain_pass_gives_the_annotated_masks() -> None:
    data = train_images(augment=False)
    image, annotations = data.items[0]
    sample = data[0, 0]
    assert sample.target is not None
    assert sample.target.masks is not None
    decoded = coco_mask.decode([annotation_rle(item, image.height, image.width) for item in annotations])
    assert (sample.target.masks.numpy() == decoded.transpose(2, 0, 1)).all()


def test_crowds_slivers_and_empty_images_are_left_out(inside: Path, tmp_path: Path) -> None:
    content = json.loads((inside / DATA / "train.json").read_text())
    by_image: dict[int, list[dict[str, Any]]] = {}
    for item in content["annotations"]:
        by_image.setdefault(item["image_id"], []).append(item)
    first, own = max(by_image.items(), key=lambda entry: len(entry[1]))
    own[0]["iscrowd"] = 1
    own[1]["bbox"][2] = 0.5
    second = next(id_ for id_ in by_image if id_ != first)
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] != second]
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = TrainImages(read_annotations(tmp_path / "train.json"), DATA / "images", SETTINGS, 0, masks=False)
    assert len(data) == len(content["images"]) - 1
    (labels,) = (data.labels(i) for i, (image, _) in enumerate(data.items) if image.id == first)
    assert len(labels) == len(own) - 2


def test_an_image_of_another_size_is_refused(inside: Path, tmp_path: Path) -> None:
    content = json.loads((inside / DATA / "val.json").read_text())
    content["images"][0]["width"] += 1
    (tmp_path / "val.json").write_text(json.dumps(content))
    data = TestImages(read_annotations(tmp_path / "val.json"), DATA / "images", SETTINGS)
    with pytest.raises(ImageError, match="does not have the size of its annotation"):
        data[0]
    assert data[1].target is None


@pytest.mark.usefixtures("inside")
def test_boxes_outside_their_image_are_left_out(tmp_path: Path) -> None:
    """Clamped to the border they have no size, and a regression target of log 0."""
    content = json.loads((DATA / "train.json").read_text())
    first = content["annotations"][0]
    first["bbox"] = [-50, -50, 20, 20]
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = TrainImages(
        read_annotations(tmp_path / "train.json"), DATA / "images", SETTINGS, 0, masks=True, augment=False
    )
    assert first["id"] not in {item.id for _, items in data.items for item in items}
    for index in range(len(data)):
        target = data[index, 0].target
        assert target is not None
        assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()


@pytest.mark.usefixtures("inside")
def test_masks_that_are_missing_are_counted_before_training(tmp_path: Path) -> None:
    content = json.loads((DATA / "train.json").read_text())
    for item in content["annotations"][3:]:
        del item["segmentation"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    annotations = read_annotations(tmp_path / "train.json")
    missing = len(content["annotations"]) - 3
    with pytest.raises(ImageError, match=f"{missing} annotations have no mask"):
        TrainImages(annotations, DATA / "images", SETTINGS, 0, masks=True)
    TrainImages(annotations, DATA / "images", SETTINGS, 0, masks=False)


def test_an_animation_is_refused(inside: Path, tmp_path: Path) -> None:
    content = json.loads((inside / DATA / "val.json").read_text())
    image = content["images"][0]
    content.update(images=[image], annotations=[])
    (tmp_path / "val.json").write_text(json.dumps(content))
    frames = [Picture.new("RGB", (image["width"], image["height"]), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / image["file_name"], format="GIF", save_all=True, append_images=frames[1:])
    data = TestImages(read_annotations(tmp_path / "val.json"), tmp_path, SETTINGS)
    with pytest.raises(ImageError, match="animation"):
        data[0]


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("workers", [0, 1])
def test_errors_leave_a_loading_process_as_they_are(workers: int) -> None:
    class Broken(TrainImages):
        def __getitem__(self, key: tuple[int, int]) -> Any:
            raise ImageError("cannot decode", where="a.png", remedy="fetch it again")

    data = Broken(read_annotations(DATA / "train.json"), DATA / "images", SETTINGS, 0, masks=False)
    with pytest.raises(ImageError) as error:
        next(load(data, batch_sampler=[[(0, 0)]], collate_fn=list, num_workers=workers))
    assert str(error.value) == "cannot decode\n  where:    a.png\n  remedy:   fetch it again"


@pytest.mark.usefixtures("inside")
def test_any_short_side_between_two_bounds_may_be_drawn() -> None:
    changes = {"train_short_edges": [48, 96], "short_edge_sampling": "range", "train_long_edge": 80}
    data = train_images(settings=SETTINGS.model_copy(update=changes))
    sides = {min(data[0, position].image.shape[1:]) for position in range(60)}
    assert len(sides) > 10
    assert 48 <= min(sides) < 60
    assert max(sides) == 80  # the bound of square images in training
    plain = train_images(settings=SETTINGS.model_copy(update=changes), augment=False)
    assert plain[0, 0].image.shape[1:] == (64, 64)


@pytest.mark.usefixtures("inside")
def test_stuff_maps_follow_their_image(tmp_path: Path) -> None:
    """Resized without mixing categories, mirrored with the image; refused if of another size or absent."""
    annotations = read_annotations(DATA / "train.json")

    def images() -> TrainImages:
        return TrainImages(annotations, DATA / "images", SETTINGS, 0, masks=False, stuff_maps=tmp_path)

    data = images()
    pattern = np.where(np.arange(64) < 32, 7, 255).astype(np.uint8)[None].repeat(64, axis=0)
    for path in data.stuff_paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(pattern).save(path)
    left = set()
    for position in range(12):
        sample = data[0, position]
        assert sample.target is not None
        assert sample.target.stuff is not None
        assert sample.target.stuff.shape == sample.image.shape[1:]
        assert set(sample.target.stuff.unique().tolist()) == {7, 255}
        left.add(int(sample.target.stuff[0, 0]))
    assert left == {7, 255}
    Picture.fromarray(pattern[:32]).save(data.stuff_paths[0])
    with pytest.raises(ImageError, match="does not have the image's size"):
        data[0, 0]
    data.stuff_paths[0].unlink()
    with pytest.raises(ImageError, match="cannot decode the stuff map"):
        data[0, 0]


def test_all_of_a_target_goes_to_another_device() -> None:
    """The meta device stands for a GPU. The seed of the image's draws goes with it."""
    boxes, labels = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
    masks, stuff = torch.zeros(2, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8)
    moved = Target(boxes, labels, masks, stuff, seed=5).to(torch.device("meta"))
    for part in (moved.boxes, moved.labels, moved.masks, moved.stuff):
        assert part is not None
        assert part.is_meta
    assert moved.seed == 5
