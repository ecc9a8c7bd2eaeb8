"""Images with their ground truth, decoded, resized and flipped, ready for any detector."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from benchmark.annotations import Annotation, AnnotationFile, Image, annotation_rle, resolve_image
from benchmark.errors import BenchmarkError
from benchmark.images.target import Target
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.sampling import seeded
from benchmark.seeds import derive_seed


class ImageError(BenchmarkError):
    """An image file is missing or cannot be decoded."""


@dataclass
class Sample:
    """One image as a detector takes it: float (3, H, W) RGB in [0, 1], its id, its original (height, width),
    and the ground truth in the resized image's pixels (None in testing)."""

    image_id: int
    image: Tensor
    size: tuple[int, int]
    target: Target | None

    def pin_memory(self) -> "Sample":
        """The same in pinned memory, from which copies to a GPU do not wait; the data loader calls this."""
        target = None if self.target is None else self.target.pin_memory()
        return replace(self, image=self.image.pin_memory(), target=target)


def find_images(images: Sequence[Image], folder: Path) -> list[Path]:
    """The file of every image, looked for once, before anything expensive starts.

    Raises:
        ImageError: files are missing; names the first and counts them.
    """
    paths, problems = [], []
    for image in images:
        try:
            paths.append(resolve_image(image, folder))
        except BenchmarkError as error:
            problems.append((image, error))
    if problems:
        raise ImageError(
            f"{len(problems)} of {len(images)} image files are missing",
            where=folder,
            found=f"first: image {problems[0][0].id}, {problems[0][0].relative_path}: {problems[0][1].what}",
            remedy="put the images there, or correct the image folder of the dataset",
        )
    return paths


def resized(height: int, width: int, short_edge: int, long_edge: int) -> tuple[int, int]:
    """Size with the short side at ``short_edge``, or smaller where the long side would pass ``long_edge``."""
    scale = min(short_edge / min(height, width), long_edge / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _decode(path: Path, image: Image) -> Tensor:
    try:
        pixels = decode_image(str(path), mode=ImageReadMode.RGB)
    except (RuntimeError, OSError) as error:
        raise ImageError(
            f"cannot decode the file of image {image.id}",
            where=path,
            found=str(error).splitlines()[0],
            remedy="fetch the file again if it is damaged; convert other formats to JPEG or PNG",
        ) from None
    if pixels.ndim != 3:
        raise ImageError(
            f"the file of image {image.id} is an animation",
            where=path,
            found=f"{len(pixels)} pictures",
            expected="one",
            remedy="save the picture that is annotated as JPEG or PNG",
        )
    if tuple(pixels.shape[-2:]) != (image.height, image.width):
        raise ImageError(
            f"image {image.id} does not have the size of its annotation",
            where=path,
            found=f"{pixels.shape[-2]} x {pixels.shape[-1]} (height x width)",
            expected=f"{image.height} x {image.width}",
            remedy="check that the images belong to this annotation file",
        )
    return pixels


def _decode_map(path: Path, image: Image) -> Tensor:
    """Stuff categories (1, H, W) uint8 of an image."""
    try:
        categories = decode_image(str(path), mode=ImageReadMode.GRAY)
    except (RuntimeError, OSError) as error:
        raise ImageError(
            f"cannot decode the stuff map of image {image.id}",
            where=path,
            found=str(error).splitlines()[0],
            remedy="unpack COCO's stuffthingmaps there, or take a detector with semantic_branch: false",
        ) from None
    if tuple(categories.shape[-2:]) != (image.height, image.width):
        raise ImageError(
            f"the stuff map of image {image.id} does not have the image's size",
            where=path,
            found=f"{categories.shape[-2]} x {categories.shape[-1]} (height x width)",
            expected=f"{image.height} x {image.width}",
        )
    return categories


def _seen(annotation: Annotation, image: Image) -> float:
    """The shorter side, in pixels, of the part of a box that lies in its image; 0 or less outside."""
    x, y, width, height = annotation.bbox
    return min(min(x + width, image.width) - max(x, 0.0), min(y + height, image.height) - max(y, 0.0))


class _Caught(Dataset[Any]):
    """Items of ``data``, or in their place the error of bad input that they raise."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.data[key]
        except BenchmarkError as error:
            return error


def load(data: Dataset[Any], **options: Any) -> Iterator[Any]:
    """What a ``DataLoader`` with ``options`` yields.

    Errors of bad input are raised here as they were raised by the data: PyTorch would bring them out of a
    loading process with a traceback for a message. The length of ``data`` must be known to a sampler.
    """
    for loaded in DataLoader(_Caught(data), **options):
        for item in loaded if isinstance(loaded, list) else [loaded]:
            if isinstance(item, BenchmarkError):
                raise item
        yield loaded


class TrainImages(Dataset[Sample]):
    """Training images that have annotations; crowd regions and boxes of which less than one pixel lies in the
    image are left out.

    An item is asked for as (index, position): the augmentation and the draws of anchors and RoIs depend on
    the seed and the position in the stream of images, not on the process that loads it.

    Args:
        annotations: ground truth.
        folder: image folder.
        settings: sizes and flips.
        seed: of the augmentation and of those draws.
        masks: also make instance masks.
        stuff_maps: folder of the images' stuff maps, for detectors with a semantic branch; None for none.
        categories: ids of the categories whose annotations are used; None for all. Labels stay the same.
        augment: False for one plain pass over the data (``fit`` stages): fixed size, no flip.
    """

    def __init__(
        self,
        annotations: AnnotationFile,
        folder: Path,
        settings: DetectorSettings,
        seed: int,
        *,
        masks: bool,
        stuff_maps: Path | None = None,
        augment: bool = True,
        categories: Collection[int] | None = None,
    ) -> None:
        self.settings, self.seed = settings, seed
        self.masks, self.augment = masks, augment
        self.label_of = {int(category): label for label, category in enumerate(annotations.category_ids)}
        by_image = annotations.annotations_by_image()
        self.items: list[tuple[Image, list[Annotation]]] = []
        for image in annotations.images:
            usable = [
                item
                for item in by_image.get(image.id, [])
                if not item.iscrowd
                and _seen(item, image) >= 1
                and (categories is None or item.category_id in categories)
            ]
            if usable:
                self.items.append((image, usable))
        if not self.items:
            raise ImageError("no image has an annotation to train on", where=annotations.path)
        bare = [item for _, items in self.items for item in items if not bytes(item.segmentation)]
        if masks and bare:
            raise ImageError(
                f"{len(bare)} annotations have no mask to train on",
                where=annotations.path,
                found=f"first: annotation {bare[0].id} without segmentation",
                remedy="train a Faster R-CNN, which needs boxes only, or take a file with segmentations",
            )
        self.paths = find_images([image for image, _ in self.items], folder)
        self.stuff_paths: list[Path] = []
        if stuff_maps is not None:
            self.stuff_paths = [
                stuff_maps / path.relative_to(folder).with_suffix(".png") for path in self.paths
            ]

    def __len__(self) -> int:
        return len(self.items)

    def labels(self, index: int) -> list[int]:
        """Labels of the annotations of an image, with repeats."""
        return [self.label_of[item.category_id] for item in self.items[index][1]]

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, position = key
        image, annotations = self.items[index]
        size = (image.height, image.width)
        pixels = tv_tensors.Image(_decode(self.paths[index], image))
        corners = [
            (x, y, x + width, y + height) for x, y, width, height in (item.bbox for item in annotations)
        ]
        content: dict[str, Tensor] = {
            "image": pixels,
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor(corners, dtype=torch.float32), format="XYXY", canvas_size=size
            ),
        }
        if self.masks:
            rles = [annotation_rle(item, *size) for item in annotations]
            decoded = np.ascontiguousarray(coco_mask.decode(rles).transpose(2, 0, 1))
            content["masks"] = tv_tensors.Mask(torch.from_numpy(decoded))
        if self.stuff_paths:
            content["stuff"] = tv_tensors.Mask(_decode_map(self.stuff_paths[index], image))
        with seeded(derive_seed(self.seed, "augmentation", position)):
            content = self._transform(size)(content)
        labels = torch.tensor([self.label_of[item.category_id] for item in annotations])
        masks = content["masks"].as_subclass(Tensor) if self.masks else None
        stuff = content["stuff"].as_subclass(Tensor)[0] if self.stuff_paths else None
        seed = derive_seed(self.seed, "anchors and RoIs", position)
        target = Target(content["boxes"].as_subclass(Tensor), labels, masks, stuff, seed)
        return Sample(image.id, content["image"].as_subclass(Tensor), size, target)

    def _transform(self, size: tuple[int, int]) -> v2.Transform:
        settings = self.settings
        edges, flip = settings.train_short_edges, settings.flip_probability
        long_edge = settings.train_long_edge or settings.long_edge
        if not self.augment:
            edges, flip, long_edge = [settings.test_short_edge], 0.0, settings.long_edge
        if settings.short_edge_sampling == "range":
            edge = int(torch.randint(min(edges), max(edges) + 1, ()))
        else:
            edge = edges[int(torch.randint(len(edges), ()))]
        return v2.Compose(
            [
                v2.ClampBoundingBoxes(),
                v2.Resize(list(resized(*size, edge, long_edge)), antialias=True),
                v2.RandomHorizontalFlip(flip),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            ]
        )


class TestImages(Dataset[Sample]):
    """Every image of an annotation file at its test size, without ground truth."""

    __test__ = False  # not a test class for pytest

    def __init__(self, annotations: AnnotationFile, folder: Path, settings: DetectorSettings) -> None:
        self.images, self.settings = annotations.images, settings
        self.paths = find_images(self.images, folder)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image = self.images[index]
        size = (image.height, image.width)
        pixels = _decode(self.paths[index], image)
        new = resized(*size, self.settings.test_short_edge, self.settings.long_edge)
        pixels = v2.functional.resize(pixels, list(new), antialias=True)
        return Sample(image.id, v2.functional.to_dtype(pixels, torch.float32, scale=True), size, None)
