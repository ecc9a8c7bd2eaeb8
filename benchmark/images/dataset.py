"""Images with their ground truth, decoded, resized and flipped for any detector."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from benchmark.annotations import AnnotationFile
from benchmark.errors import BenchmarkError
from benchmark.images.annotated import AnnotatedImages
from benchmark.images.files import decode, decode_stuff, find_images
from benchmark.images.masks import InstanceMasks
from benchmark.images.target import Target
from benchmark.processes import end_with
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.seeds import derive_seed


@dataclass
class Sample:
    """A loaded image: uint8 (3, H, W) RGB, its id, its original (height, width), and the ground truth in
    pixels of the resized image (None in testing)."""

    image_id: int
    image: Tensor
    size: tuple[int, int]
    target: Target | None

    def __getstate__(self) -> dict[str, Any]:
        # between processes: tensors would take shared memory, of which a container has 64 MB
        return vars(self) | {"image": self.image.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"image": torch.from_numpy(state["image"])})

    def on(self, device: torch.device) -> tuple[Tensor, Target | None]:
        """The input of a detector on its device: the image in float32, in [0, 1], and the ground truth.

        Copies from pinned memory are asynchronous, and copy bytes: the conversion to float is on the device.
        """
        image = transforms.to_dtype(self.image.to(device, non_blocking=True), torch.float32, scale=True)
        return image, None if self.target is None else self.target.to(device)

    def pin_memory(self) -> "Sample":
        """The sample in pinned memory, for asynchronous copies to a GPU; the data loader calls this."""
        target = None if self.target is None else self.target.pin_memory()
        return replace(self, image=self.image.pin_memory(), target=target)


def resized(height: int, width: int, short_edge: int, long_edge: int) -> tuple[int, int]:
    """Size with the short side at ``short_edge``, or smaller if the long side would exceed ``long_edge``."""
    scale = min(short_edge / min(height, width), long_edge / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


class _ErrorsAsItems(Dataset[Any]):
    """The items of ``data``; an item that raises an error of bad input is replaced by the error."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.data[key]
        except BenchmarkError as error:
            return error


def load(data: Dataset[Any], **options: Any) -> Iterator[Any]:
    """Yield from a ``DataLoader`` with ``options``.

    Raises errors of bad input unchanged: PyTorch would replace the message of an error in a loading process
    by a traceback. The length of ``data`` must be known to a sampler. Loading processes end with this one,
    at once: PyTorch's look every few seconds whether it is still there.
    """
    begin = partial(_begin_worker, os.getpid())
    for loaded in DataLoader(_ErrorsAsItems(data), worker_init_fn=begin, **options):
        for item in loaded if isinstance(loaded, list) else [loaded]:
            if isinstance(item, BenchmarkError):
                raise item
        yield loaded


def _begin_worker(parent: int, _: int) -> None:
    end_with(parent)


class TrainImages(Dataset[Sample]):
    """Training images with the ground truth of ``AnnotatedImages``.

    The key of an item is (index, position): the augmentation and the draws of anchors and RoIs depend on the
    seed and the position in the stream of images, not on the process that loads the image.

    Args:
        annotations: ground truth; not kept.
        folder: image folder.
        settings: sizes, flips and how mask targets are made.
        seed: seed of the augmentation and of those draws.
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
        self.settings, self.seed, self.augment = settings, seed, augment
        self.folder, self.stuff_maps = folder, stuff_maps
        self.label_of = {int(category): label for label, category in enumerate(annotations.category_ids)}
        self.images = AnnotatedImages(annotations, folder, masks=masks, categories=categories)

    def __len__(self) -> int:
        return len(self.images)

    def labels(self, index: int) -> list[int]:
        """Labels of the annotations of an image, with repeats."""
        labels: list[int] = self.images.labels[self.images.annotations(index)].tolist()
        return labels

    def stuff_path(self, index: int) -> Path:
        """The file of an image's stuff map."""
        assert self.stuff_maps is not None
        return self.stuff_maps / self.images.path(index).relative_to(self.folder).with_suffix(".png")

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, position = key
        image_id, own = int(self.images.ids[index]), self.images.annotations(index)
        height, width = self.images.sizes[index].tolist()
        new, mirrored = self._drawn(height, width, position)
        image = decode(self.images.path(index), image_id, (height, width))
        image = transforms.resize(image, list(new), antialias=True)
        stuff = None
        if self.stuff_maps is not None:
            stuff = decode_stuff(self.stuff_path(index), image_id, (height, width))
            stuff = transforms.resize(stuff, list(new), interpolation=InterpolationMode.NEAREST)[0]
        boxes = torch.from_numpy(self.images.boxes[own]).clamp(min=0)
        boxes = torch.minimum(boxes, boxes.new_tensor([width, height] * 2))
        boxes *= torch.tensor([new[1] / width, new[0] / height] * 2)
        masks = None
        if self.images.segmentations is not None:
            shapes = self.images.segmentations.shapes(own.start, own.stop)
            masks = InstanceMasks.of(shapes, height, width, self.settings.mask_targets).resized(*new)
        if mirrored:
            image, stuff = image.flip(-1), None if stuff is None else stuff.flip(-1)
            boxes[:, [2, 0]] = new[1] - boxes[:, [0, 2]]
            masks = None if masks is None else masks.flipped()
        seed = derive_seed(self.seed, "anchors and RoIs", position)
        labels = torch.from_numpy(self.images.labels[own]).clone()
        return Sample(image_id, image, (height, width), Target(boxes, labels, masks, stuff, seed))

    def _drawn(self, height: int, width: int, position: int) -> tuple[tuple[int, int], bool]:
        """Height and width of the resized image, and whether it is flipped."""
        settings = self.settings
        edges, flip = settings.train_short_edges, settings.flip_probability
        long_edge = settings.train_long_edge or settings.long_edge
        if not self.augment:
            edges, flip, long_edge = [settings.test_short_edge], 0.0, settings.long_edge
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "augmentation", position))
        if settings.short_edge_sampling == "range":
            edge = int(torch.randint(min(edges), max(edges) + 1, (), generator=generator))
        else:
            edge = edges[int(torch.randint(len(edges), (), generator=generator))]
        mirrored = bool(torch.rand(1, generator=generator) < flip)
        return resized(height, width, edge, long_edge), mirrored


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
        pixels = decode(self.paths[index], image.id, size)
        new = resized(*size, self.settings.test_short_edge, self.settings.long_edge)
        return Sample(image.id, transforms.resize(pixels, list(new), antialias=True), size, None)
