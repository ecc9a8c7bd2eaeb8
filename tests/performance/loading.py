"""Loading of training images, beside detectron2's, MMDetection's and torchvision's own, and its memory."""

import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from benchmark.annotations import AnnotationFile, annotation_rle, read_annotations
from benchmark.images import TrainImages
from benchmark.images.dataset import resized
from benchmark.recipes.detector_settings import DetectorSettings, MaskTargets
from benchmark.recipes.paths import DatasetFiles

from .annotations import write_training_file
from .measuring import ROOT, alternately, median_ratio, result_of, table

TRUTH = ROOT / "tests" / "data" / "lvis_val_100.json"
REPETITIONS = 7
IMAGES = 24
SHORT_EDGE, LONG_EDGE = 800, 1333
WORKERS = 8
LVIS_IMAGES, LVIS_ANNOTATIONS = 100_170, 1_270_141  # of LVIS v1's training file
TEXT = """\
## Loading

A training image is read, decoded, resized to {short} pixels (at most {long}) and mirrored with probability
0.5, with its boxes, labels and segmentations: the first {images} images of LVIS' `lvis_val_100.json` that
have objects, {objects:.1f} each. The pictures are made up, with the spectrum of photographs, in JPEG files
of {size:.0f} kB on average. CPU time on one core, one thread, medians over {repetitions} passes, in which
all take turns. Ours gives uint8, which is scaled on the device, as detectron2 and MMDetection do.
Segmentations come in the form that each trains on: ours as runs of pixels, for `mask_targets: coverage` and
the ways with bitmaps, or as polygons; theirs as polygons, or as bitmaps of the resized image. torchvision's
transforms with bitmaps are what this benchmark used before.

{times}
**Memory.** A generated training file of LVIS v1's size, {annotations:,} annotations of {files:,} images.
"Main" is what the data take in the process that reads them, once they stand ready and without the mapped
file; what "a loading process" copies of it, each of {workers} forked ones does in one pass over its share.
The other way is a list of records for each image, as it was before.

{memory}"""


def photograph_like(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An image (height, width, 3) uint8 with a photograph's spectrum: it falls as one over the frequency."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    falling = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    planes = []
    for _ in range(3):
        phases = np.exp(2j * np.pi * generator.random(falling.shape))
        planes.append(np.fft.irfft2(falling * phases, s=(height, width)))
    pixels = np.stack(planes, axis=2)
    pixels = pixels[:, :, :1] + 0.3 * pixels  # mostly grey, as photographs are
    return (128 + 48 * (pixels - pixels.mean()) / pixels.std()).clip(0, 255).astype(np.uint8)


def write_images(folder: Path) -> AnnotationFile:
    """The first images with objects as files, and an annotation file of these alone."""
    content = json.loads(TRUTH.read_text(encoding="utf-8"))
    annotated = {item["image_id"] for item in content["annotations"]}
    images = [image for image in content["images"] if image["id"] in annotated][:IMAGES]
    chosen = {image["id"] for image in images}
    generator = np.random.Generator(np.random.PCG64(0))
    (folder / "images").mkdir()
    for image in images:
        picture = Picture.fromarray(photograph_like(generator, image["height"], image["width"]))
        picture.save(folder / "images" / image["file_name"], quality=92)
    content["images"] = images
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in chosen]
    (folder / "train.json").write_text(json.dumps(content), encoding="utf-8")
    return read_annotations(folder / "train.json")


def lvis_files(place: Path) -> DatasetFiles:
    """Of what ``write_images`` has written to a folder."""
    truth, images = place / "train.json", place / "images"
    statistics = ROOT / "tests" / "data" / "lvis_v0.5_categories.csv"
    return DatasetFiles(truth, truth, images, images, None, statistics)


Load = Callable[[int], Any]
EDGES = SHORT_EDGE, LONG_EDGE


def ours(annotations: AnnotationFile, folder: Path, way: MaskTargets) -> Load:
    """The benchmark's."""
    settings = DetectorSettings(
        architecture="mask_rcnn",
        backbone="resnet50",
        train_short_edges=[SHORT_EDGE],
        long_edge=LONG_EDGE,
        mask_targets=way,
    )
    data = TrainImages(annotations, folder, settings, seed=0, masks=True)
    return lambda index: data[index, index]


def with_torchvision(annotations: AnnotationFile, folder: Path, edges: tuple[int, int] = EDGES) -> Load:
    """torchvision's transforms and bitmaps, in float32: how this benchmark loaded images before."""
    items = annotations.annotations_by_image()

    def load(index: int) -> Any:
        image = annotations.images[index]
        size = (image.height, image.width)
        own = items[image.id]
        bitmaps = coco_mask.decode([annotation_rle(item, *size) for item in own])
        corners = [(x, y, x + width, y + height) for x, y, width, height in (item.bbox for item in own)]
        boxes = torch.tensor(corners, dtype=torch.float32)
        content = {
            "image": tv_tensors.Image(
                decode_image(str(folder / image.relative_path), mode=ImageReadMode.RGB)
            ),
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "masks": tv_tensors.Mask(torch.from_numpy(np.ascontiguousarray(bitmaps.transpose(2, 0, 1)))),
        }
        transform = v2.Compose(
            [
                v2.ClampBoundingBoxes(),
                v2.Resize(list(resized(*size, *edges)), antialias=True),
                v2.RandomHorizontalFlip(0.5),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            ]
        )
        labels = torch.tensor([item.category_id - 1 for item in own])
        return transform(content), labels

    return load


def with_detectron2(
    annotations: AnnotationFile, folder: Path, form: str, edges: tuple[int, int] = EDGES
) -> Load:
    """detectron2's ``DatasetMapper`` as its Mask R-CNN has it; ``form`` is ``polygon`` or ``bitmask``."""
    from detectron2.data import DatasetMapper
    from detectron2.data import transforms as T
    from detectron2.structures import BoxMode

    augmentations = [T.ResizeShortestEdge([edges[0]], edges[1], "choice"), T.RandomFlip()]
    mapper = DatasetMapper(
        is_train=True,
        augmentations=augmentations,
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format=form,
    )
    items = annotations.annotations_by_image()
    records = [
        {
            "file_name": str(folder / image.relative_path),
            "height": image.height,
            "width": image.width,
            "image_id": image.id,
            "annotations": [
                {
                    "bbox": list(item.bbox),
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": item.category_id - 1,
                    "segmentation": item.shape(),
                }
                for item in items[image.id]
            ],
        }
        for image in annotations.images
    ]
    return lambda index: mapper(records[index])


def with_mmdetection(
    annotations: AnnotationFile, folder: Path, bitmaps: bool, edges: tuple[int, int] = EDGES
) -> Load:
    """MMDetection's training pipeline of Mask R-CNN (configs/_base_/datasets/coco_instance.py)."""
    from benchmark.detectors.mmcv_ops import provide_operators

    provide_operators()
    import cv2

    with redirect_stdout(sys.stderr):  # they print what else is not installed
        from mmcv.transforms import Compose, LoadImageFromFile
        from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize

    cv2.setNumThreads(1)
    pipeline = Compose(
        [
            LoadImageFromFile(),
            LoadAnnotations(with_bbox=True, with_mask=True, poly2mask=bitmaps),
            Resize(scale=edges[::-1], keep_ratio=True),
            RandomFlip(prob=0.5),
            PackDetInputs(),
        ]
    )
    items = annotations.annotations_by_image()
    records = [
        {
            "img_path": str(folder / image.relative_path),
            "img_id": image.id,
            "height": image.height,
            "width": image.width,
            "instances": [
                {
                    "bbox": [x, y, x + width, y + height],
                    "bbox_label": item.category_id - 1,
                    "mask": item.shape(),
                    "ignore_flag": 0,
                }
                for item in items[image.id]
                for x, y, width, height in [item.bbox]
            ],
        }
        for image in annotations.images
    ]
    return lambda index: pipeline(dict(records[index]))


def loaders(annotations: AnnotationFile, folder: Path) -> dict[str, Load]:
    """All that are installed, ours first."""
    found = {
        "ours, runs (`coverage`)": ours(annotations, folder, "coverage"),
        "ours, polygons": ours(annotations, folder, "polygons"),
        "torchvision's transforms, bitmaps": with_torchvision(annotations, folder),
    }
    if importlib.util.find_spec("detectron2"):
        found["detectron2, polygons"] = with_detectron2(annotations, folder, "polygon")
        found["detectron2, bitmaps"] = with_detectron2(annotations, folder, "bitmask")
    if importlib.util.find_spec("mmdet"):
        found["MMDetection, polygons"] = with_mmdetection(annotations, folder, False)
        found["MMDetection, bitmaps"] = with_mmdetection(annotations, folder, True)
    return found


def times() -> dict[str, Any]:
    """CPU milliseconds an image of every loader, the median ratio to ours, and what the images are."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        annotations = write_images(Path(name))
        folder = Path(name) / "images"
        sizes = [path.stat().st_size for path in folder.iterdir()]
        found = loaders(annotations, folder)

        def all_of(load: Load) -> Callable[[], None]:
            def work() -> None:
                for index in range(len(annotations.images)):
                    load(index)

            return work

        seconds = alternately(*map(all_of, found.values()), repetitions=REPETITIONS)
    count = len(annotations.images)
    return {
        "rows": [
            [label, 1e3 * statistics.median(own) / count, median_ratio(own, seconds[0])]
            for label, own in zip(found, seconds, strict=True)
        ],
        "kilobytes": sum(sizes) / len(sizes) / 1e3,
        "objects": len(annotations.annotations) / count,
    }


def memory_of(kind: str) -> float:
    """Megabytes that this process has for itself: ``Anonymous``, or written since it was forked,
    ``Private_Dirty``."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    kilobytes = {line.split()[0][:-1]: int(line.split()[1]) for line in lines}
    return kilobytes[kind] * 1024 / 1e6


class _Share(Dataset[float]):
    """What a loading process copies while it visits each of its annotations once."""

    def __init__(self, visit: Callable[[int], object], count: int) -> None:
        self.visit, self.count = visit, count

    def __len__(self) -> int:
        return WORKERS

    def __getitem__(self, _: int) -> float:
        worker = get_worker_info()
        assert worker is not None
        before = memory_of("Private_Dirty")
        for index in range(worker.id, self.count, WORKERS):
            self.visit(index)
        return memory_of("Private_Dirty") - before


def memory(folder: str, arrays: bool) -> list[float]:
    """Megabytes of the main process, and the mean of what the loading processes have copied."""
    start = memory_of("Anonymous")
    annotations = read_annotations(Path(folder) / "train.json")
    visit: Callable[[int], object]
    if arrays:
        settings = DetectorSettings(architecture="mask_rcnn", backbone="resnet50")
        data = TrainImages(annotations, Path(folder) / "images", settings, 0, masks=True)
        segmentations = data.images.segmentations
        assert segmentations is not None

        def visit(index: int) -> object:
            own = data.images.annotations(index)
            return data.images.path(index), data.labels(index), segmentations.shapes(own.start, own.stop)

    else:
        groups = annotations.annotations_by_image()
        items = [(image, groups[image.id]) for image in annotations.images]
        paths = [Path(folder) / image.relative_path for image in annotations.images]

        def visit(index: int) -> object:
            image, own = items[index]
            segmentations = [(item.bbox, item.category_id, item.segmentation) for item in own]
            return image.width, str(paths[index]), segmentations

    del annotations
    count = LVIS_IMAGES if not arrays else len(data)
    main = memory_of("Anonymous") - start
    share = DataLoader(_Share(visit, count), batch_size=None, num_workers=WORKERS)
    return [main, statistics.mean(float(copied) for copied in share)]


@contextmanager
def lvis_size() -> Iterator[str]:
    """A folder with a training file of LVIS v1's size and empty image files."""
    with tempfile.TemporaryDirectory() as folder:
        write_training_file(Path(folder) / "train.json", LVIS_IMAGES, LVIS_ANNOTATIONS, seed=1)
        images = Path(folder) / "images" / "train2017"
        images.mkdir(parents=True)
        for number in range(LVIS_IMAGES):
            os.close(os.open(images / f"{number + 1:012d}.jpg", os.O_CREAT | os.O_WRONLY))
        yield folder


def section() -> str:
    """Markdown."""
    found = result_of("loading", "times()")
    rows = [[label, f"{ms:.1f}", f"{ratio:.1f}"] for label, ms, ratio in found["rows"]]
    with lvis_size() as folder:
        kept = {
            "arrays (ours)": result_of("loading", f"memory({folder!r}, True)"),
            "a list of records for each image": result_of("loading", f"memory({folder!r}, False)"),
        }
    return TEXT.format(
        short=SHORT_EDGE,
        long=LONG_EDGE,
        images=IMAGES,
        objects=found["objects"],
        size=found["kilobytes"],
        repetitions=REPETITIONS,
        times=table(["loader", "ms an image", "times ours"], rows),
        annotations=LVIS_ANNOTATIONS,
        files=LVIS_IMAGES,
        workers=WORKERS,
        memory=table(
            ["annotations as", "main, MB", "copied by a loading process, MB"],
            [[label, f"{main:,.0f}", f"{copied:.1f}"] for label, (main, copied) in kept.items()],
        ),
    )
