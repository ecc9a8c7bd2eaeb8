"""Boxes and masks follow their image through resizing and flipping; draws depend only on the position."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import all_ended, instance_masks
from PIL import Image as Picture
from PIL import ImageOps
from pycocotools import mask as coco_mask

from benchmark.annotations import AnnotationFile, annotation_rle, read_annotations
from benchmark.images import ImageError, Target, TestImages, TrainImages, annotated, load
from benchmark.images.annotated import Segmentations
from benchmark.images.dataset import resized
from benchmark.images.files import decode
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
        ((1, 4000), (1, 1333)),
        ((4000, 1), (1333, 1)),
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
        assert sample.target.masks.size == (height, width)
        assert len(sample.target.masks) == len(sample.target.labels)
        image, target = sample.on(torch.device("cpu"))
        assert target is not None
        assert image.dtype == torch.float32
        torch.testing.assert_close(image, sample.image / 255)
        whole = torch.tensor([[0.0, 0, width, height]]).expand(len(target.labels), 4)
        masks = sample.target.masks.targets(whole, torch.arange(len(whole)), height)
        for box, mask in zip(sample.target.boxes, masks, strict=True):
            y, x = (mask >= 0.5).nonzero(as_tuple=True)
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
    whole = torch.tensor([[0.0, 0, 64, 64]]).expand(len(plain.target.labels), 4)
    targets = [
        target.masks.targets(whole, torch.arange(len(whole)), 28)
        for target in (mirrored.target, plain.target)
        if target.masks is not None
    ]
    torch.testing.assert_close(targets[0], targets[1].flip(-1))
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
    annotations = read_annotations(DATA / "train.json")
    data = train_images(augment=False)
    sample = data[0, 0]
    items = annotations.annotations_by_image()[sample.image_id]
    assert sample.target is not None
    assert sample.target.masks is not None
    whole = torch.tensor([[0.0, 0, 64, 64]]).expand(len(items), 4)
    found = sample.target.masks.targets(whole, torch.arange(len(items)), 64)
    decoded = coco_mask.decode([annotation_rle(item, 64, 64) for item in items])
    assert (found.numpy() == decoded.transpose(2, 0, 1)).all()


def test_crowds_ignored_objects_slivers_and_empty_images_are_left_out(inside: Path, tmp_path: Path) -> None:
    content = json.loads((inside / DATA / "train.json").read_text())
    by_image: dict[int, list[dict[str, Any]]] = {}
    for item in content["annotations"]:
        by_image.setdefault(item["image_id"], []).append(item)
    first, own = max(by_image.items(), key=lambda entry: len(entry[1]))
    own[0]["iscrowd"] = 1
    own[1]["bbox"][2] = 0.5
    own[2]["ignore"] = 1
    second = next(id_ for id_ in by_image if id_ != first)
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] != second]
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = TrainImages(read_annotations(tmp_path / "train.json"), DATA / "images", SETTINGS, 0, masks=False)
    assert len(data) == len(content["images"]) - 1
    index = data.images.ids.tolist().index(first)
    assert len(data.labels(index)) == len(own) - 3
    assert len(data[index, 0].target.boxes) == len(own) - 3


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
    """Clamped to the border they have no size, and their regression target would be log 0."""
    content = json.loads((DATA / "train.json").read_text())
    first = content["annotations"][0]
    first["bbox"] = [-50, -50, 20, 20]
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = TrainImages(
        read_annotations(tmp_path / "train.json"), DATA / "images", SETTINGS, 0, masks=True, augment=False
    )
    assert sum(len(data.labels(index)) for index in range(len(data))) == len(content["annotations"]) - 1
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
    """Resized without mixing categories and flipped with the image; refused if missing or of another size."""
    annotations = read_annotations(DATA / "train.json")

    def images() -> TrainImages:
        return TrainImages(annotations, DATA / "images", SETTINGS, 0, masks=False, stuff_maps=tmp_path)

    data = images()
    pattern = np.where(np.arange(64) < 32, 7, 255).astype(np.uint8)[None].repeat(64, axis=0)
    for path in map(data.stuff_path, range(len(data))):
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
    Picture.fromarray(pattern[:32]).save(data.stuff_path(0))
    with pytest.raises(ImageError, match="does not have the image's size"):
        data[0, 0]
    data.stuff_path(0).unlink()
    with pytest.raises(ImageError, match="cannot decode the stuff map"):
        data[0, 0]


def test_all_of_a_target_goes_to_another_device() -> None:
    """The meta device stands for a GPU. The seed of the image's draws is kept."""
    boxes, labels = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
    masks = instance_masks(torch.zeros(2, 8, 8))
    stuff = torch.zeros(8, 8, dtype=torch.uint8)
    moved = Target(boxes, labels, masks, stuff, seed=5).to(torch.device("meta"))
    assert moved.masks is not None
    for part in (moved.boxes, moved.labels, moved.masks.objects, moved.stuff):
        assert part is not None
        assert part.is_meta
    assert moved.seed == 5


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["JPEG", "PNG"])
def test_photographs_are_turned_as_their_exif_orientation_says(
    orientation: int, suffix: str, tmp_path: Path
) -> None:
    """As in detectron2 (``_apply_exif_orientation``) and Pillow; the annotated size is that of the rotated
    image."""
    generator = np.random.Generator(np.random.PCG64(orientation))
    blocks = generator.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    picture = Picture.fromarray(blocks.repeat(16, axis=0).repeat(16, axis=1))
    exif = picture.getexif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{suffix}"
    picture.save(path, exif=exif, **({"quality": 95, "subsampling": 0} if suffix == "JPEG" else {}))
    with Picture.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"), np.int16)
    assert expected.shape[:2] == ((96, 128) if orientation < 5 else (128, 96))
    found = decode(path, 1, expected.shape[:2])
    assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() <= 2
    if orientation > 4:
        with pytest.raises(ImageError, match="does not have the size of its annotation"):
            decode(path, 1, (96, 128))


def test_an_image_and_its_boxes_are_scaled_in_both_directions(tmp_path: Path) -> None:
    """With antialiasing, as in Pillow; the box touches the corner of the image."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 150, 3)).astype(np.uint8)
    Picture.fromarray(pixels).save(tmp_path / "1.png")
    image = {"id": 1, "width": 150, "height": 100, "file_name": "1.png"}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 75, 50], "area": 3750}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    annotations = read_annotations(tmp_path / "train.json")
    settings = SETTINGS.model_copy(update={"test_short_edge": 40})
    expected = np.asarray(Picture.fromarray(pixels).resize((60, 40), Picture.Resampling.BILINEAR), np.int16)
    training = TrainImages(annotations, tmp_path, settings, 0, masks=False, augment=False)[0, 0]
    assert training.target is not None
    torch.testing.assert_close(training.target.boxes, torch.tensor([[0.0, 0, 30, 20]]))
    for sample in (training, TestImages(annotations, tmp_path, settings)[0]):
        assert np.abs(sample.image.permute(1, 2, 0).numpy().astype(np.int16) - expected).max() <= 2


def changed(folder: Path, change: Any) -> AnnotationFile:
    """The training file with its content changed by ``change``."""
    content = json.loads((DATA / "train.json").read_text())
    change(content["annotations"])
    (folder / "train.json").write_text(json.dumps(content))
    return read_annotations(folder / "train.json")


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize(
    ("segmentation", "defect"),
    [
        ([], "no polygon"),
        ([[1, 1, 5, 5]], "polygon 0 has 4 numbers"),
        ([[1, 1, 5, 5, 9]], "polygon 0 has 5 numbers"),
        ([[1, 1, 5, 500, 9, 9]], "polygon 0 spans"),
        (None, "no segmentation"),
        ({"size": [64, 64], "counts": [5, 4]}, "run lengths add up to 9"),
        ({"size": [64, 32], "counts": [2048]}, "size"),
        ("a polygon", "cannot be read"),
    ],
)
def test_segmentations_that_are_no_masks_are_refused_before_training(
    segmentation: Any, defect: str, tmp_path: Path
) -> None:
    """The error counts all of them, and names the first and its file."""

    def change(annotations: list[dict[str, Any]]) -> None:
        for item in annotations[4:7]:
            item["segmentation"] = segmentation

    annotations = changed(tmp_path, change)
    with pytest.raises(ImageError) as error:
        TrainImages(annotations, DATA / "images", SETTINGS, 0, masks=True)
    assert (
        error.value.what == f"3 of {len(annotations.annotations)} segmentations cannot be turned into masks"
    )
    message = " ".join(str(error.value).split())
    assert str(tmp_path / "train.json") in message
    assert f"annotation {annotations.annotations[4].id}" in message
    assert defect in message
    TrainImages(annotations, DATA / "images", SETTINGS, 0, masks=False)


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("decimals", [2, 5, None])
@pytest.mark.parametrize("at_once", [1, 3, 8192])
def test_segmentations_are_kept_as_the_file_has_them(
    decimals: int | None, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polygons with any decimals, also beyond the border, and both kinds of run lengths."""
    monkeypatch.setattr(annotated, "AT_ONCE", at_once)
    expected: list[Any] = []

    def change(annotations: list[dict[str, Any]]) -> None:
        for number, item in enumerate(annotations):
            polygons = item["segmentation"]
            code = coco_mask.merge(coco_mask.frPyObjects(polygons, 64, 64))
            if number % 4 == 1:
                item["segmentation"] = {"size": [64, 64], "counts": code["counts"].decode()}
            elif number % 4 == 2:
                columns = coco_mask.decode(code).ravel(order="F")
                runs = np.diff(np.flatnonzero(np.diff(columns, prepend=1 - columns[0], append=2)))
                item["segmentation"] = {"size": [64, 64], "counts": [0] * int(columns[0]) + runs.tolist()}
            elif decimals != 2:
                shift = 0.123456789 if decimals is None else 0.12345
                item["segmentation"] = [[round(x - shift, decimals or 12) for x in p] for p in polygons]
            isolated = isinstance(item["segmentation"], dict)
            expected.append(code["counts"] if isolated else item["segmentation"])

    annotations = changed(tmp_path, change)
    kept = Segmentations.of(
        annotations.annotations, np.full((len(annotations.annotations), 2), 64), annotations.path
    )
    found = kept.shapes(0, 5) + kept.shapes(5, len(expected))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, bytes):
            assert ours == theirs
        else:
            for polygon, other in zip(ours, theirs, strict=True):
                assert np.abs(polygon - other).max() <= (0 if decimals == 2 else 1e-12)
    if decimals == 2:
        assert kept.hundredths.dtype == np.uint16


@pytest.mark.usefixtures("inside")
def test_an_item_holds_no_view_of_the_shared_arrays() -> None:
    """A detector that changes its target does not change the next epoch."""
    data = train_images(augment=False)
    target = data[0, 0].target
    assert target is not None
    before = data.images.labels.copy(), data.images.boxes.copy()
    target.labels += 1
    target.boxes += 1
    assert np.array_equal(data.images.labels, before[0])
    assert np.array_equal(data.images.boxes, before[1])


@pytest.mark.usefixtures("inside")
def test_ground_truth_comes_out_of_a_loading_process_as_it_went_in() -> None:
    """A waiting sample keeps one file open, that of its image; systems allow about a thousand."""
    data = train_images()
    order = [[(index, index) for index in range(8)]]
    before = len(list(Path("/proc/self/fd").iterdir()))
    (batch,) = load(data, batch_sampler=order, collate_fn=list, num_workers=1)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + len(batch) + 8
    for sample, (index, position) in zip(batch, order[0], strict=True):
        expected = data[index, position]
        assert sample.image.equal(expected.image)
        assert sample.target.seed == expected.target.seed
        for name in ("boxes", "labels"):
            assert getattr(sample.target, name).equal(getattr(expected.target, name))
        for name, part in vars(expected.target.masks).items():
            found = getattr(sample.target.masks, name)
            assert found.equal(part) if isinstance(part, torch.Tensor) else found == part


LOADING = """
import multiprocessing, time
import torch
from benchmark.images import load
for _ in load(torch.zeros(9), sampler=range(9), batch_size=None, num_workers=1):
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(600)
"""


def test_a_loading_process_ends_with_its_parent() -> None:
    """Even one that is stopped, and therefore cannot look whether its parent is there."""
    with subprocess.Popen([sys.executable, "-c", LOADING], text=True, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, signal.SIGSTOP)
        parent.kill()
    assert all_ended([worker])
