"""A small dataset with LVIS's long tail, drawn instead of downloaded.

Categories are combinations of shape, texture and colour. Every rare or common category differs from a
frequent one in exactly one of the three, so a classifier that is biased towards frequent categories misses
the rare ones. Every image has a seeded generator of its own: the same options give the same bytes.
"""

import colorsys
import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.annotations.lvis_tail import LvisTail
from benchmark.annotations.reading import AnnotationError, frequency_letter
from benchmark.annotations.shapes import (
    HUES,
    SHAPES,
    TEXTURES,
    Field,
    Look,
    Object,
    arrange,
    measure,
    pattern,
    visible_polygons,
)
from benchmark.files import file_error, remove_abandoned, temporary_prefix
from benchmark.progress import tracked
from benchmark.seeds import derive_seed

if TYPE_CHECKING:
    from benchmark.recipes.models import Synthetic

# Train image counts of LVIS v1 inside its groups: minimum, deciles, maximum
# (tests/data/lvis_v1_categories.csv).
GROUP_SIZES = {"r": 337, "c": 461, "f": 405}
RARE_QUANTILES = (1, 1, 1, 2, 3, 4, 5, 6, 7, 9, 10)
COMMON_QUANTILES = (11, 13, 16, 22, 28, 32, 40, 48, 62, 76, 100)
FREQUENT_QUANTILES = (101, 128, 186, 245, 353, 588, 858, 1395, 1789, 1903, 1977)

OBJECTS_PER_IMAGE = 5.5  # upper bound of the mean number of categories per training image
SMALLEST, LARGEST = 9 / 160, 35 / 160  # object radius relative to the image's side

FILE_INFO = {
    "description": "synthetic long-tailed instance segmentation",
    "version": "v1",
    "year": 2000,
    "contributor": "longtail synthesize",
    "url": "",
    "date_created": "2000-01-01",
}
FILE_LICENSE = {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}


def synthesize_dataset(options: "Synthetic", output: Path | str) -> str:
    """Write ``images/``, ``train.json`` and ``val.json`` (LVIS v1) into ``output``; returns one line.

    With 600 training images or more, the training image counts of the categories follow LVIS v1's groups and
    their thresholds; with fewer images, counts are smaller, and the letters follow the counts. Frequency
    letters are those of the training images in both files; ``image_count`` and ``instance_count`` are those
    of each file. In about one image in twenty, one object of a category that occurs twice is not annotated,
    and the category is listed in ``not_exhaustive_category_ids``. Objects overlap, and polygons outline the
    visible part. Other files in ``output`` are kept, and the three are only replaced when all of them are
    complete. With ``counts`` the dataset is that of ``benchmark.annotations.lvis_tail``; with ``other_than``
    it has no category of a dataset with so many. Raises ``AnnotationError`` for more categories than the
    images can hold, ``FileError`` if writing fails.
    """
    for split, number in (("train", options.train_images), ("val", options.val_images)):
        if options.categories > 6 * number:
            raise AnnotationError(
                f"too few {split} images for the categories",
                found=f"{options.categories} categories in {number} images",
                expected="at least one image for six categories",
                remedy="ask for more images or fewer categories",
            )
    output = Path(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(output)
        work = Path(tempfile.mkdtemp(dir=output.parent, prefix=temporary_prefix(output), suffix=".tmp"))
    except OSError as error:
        raise file_error("write", output, error) from error
    try:
        (work / "images").mkdir()
        summary = _generate(options, work)
        output.mkdir(exist_ok=True)
        if (output / "images").exists():
            (output / "images").rename(work / "replaced")
        for name in ("images", "train.json", "val.json"):
            (work / name).rename(output / name)
    except OSError as error:
        raise file_error("write", output, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return f"{output}: {summary}"


class _Design(Protocol):
    """Which categories a dataset has, how many images have each, and what an image looks like."""

    looks: list[Look]  # (C,), in alphabetical order of their names
    letters: list[str]  # (C,) r, c or f
    targets: dict[str, NDArray[np.int64]]  # by split: images (C,) with each category
    suffix: str  # of image files

    def objects(self, labels: list[int], generator: np.random.Generator) -> list[Object]:
        """The objects of an image that has these categories, back to front."""

    def render(self, objects: list[Object], generator: np.random.Generator) -> Image.Image:
        """The image with these objects."""

    def polygons(self, objects: list[Object], position: int) -> list[NDArray[np.float64]]:
        """Outlines (points, 2) of what is visible of an object."""

    def absent(self, labels: list[int], generator: np.random.Generator) -> list[int]:
        """Labels of categories that are stated to be absent of an image that has ``labels``."""


class _ShortTail:
    """A few dozen categories; images without crowds."""

    suffix = "png"

    def __init__(self, options: "Synthetic") -> None:
        ranks, self.looks = _vocabulary(options.categories, options.other_than or 0)
        self.targets = {"train": _train_counts(options, ranks), "val": _val_counts(options, ranks)}
        self.letters: list[str] = [frequency_letter(int(count)) for count in self.targets["train"]]
        self._size = options.image_size

    def objects(self, labels: list[int], generator: np.random.Generator) -> list[Object]:
        return _layout(labels, self.looks, self._size, generator)

    def render(self, objects: list[Object], generator: np.random.Generator) -> Image.Image:
        return Image.fromarray(_render(objects, self.looks, self._size, generator))

    def polygons(self, objects: list[Object], position: int) -> list[NDArray[np.float64]]:
        return visible_polygons(objects, position)

    def absent(self, labels: list[int], generator: np.random.Generator) -> list[int]:
        others = sorted(set(range(len(self.looks))) - set(labels))
        wanted = min(len(others), max(1, len(self.looks) // 4))
        drawn: list[int] = generator.permutation(others)[:wanted].tolist()
        return drawn


def _generate(options: "Synthetic", folder: Path) -> str:
    """Draw both splits into a folder."""
    if options.counts is None:
        design: _Design = _ShortTail(options)
    else:
        images = {"train": options.train_images, "val": options.val_images}
        design = LvisTail(images, options.image_size, options.seed)
    contents = {split: _split(split, design, options, folder / "images") for split in design.targets}
    for split, content in contents.items():
        (folder / f"{split}.json").write_bytes(msgspec.json.encode(content))
    groups = " / ".join(str(design.letters.count(letter)) for letter in "rcf")
    return (
        f"{options.train_images} training and {options.val_images} validation images, "
        f"{options.categories} categories (rare / common / frequent {groups}), "
        f"{len(contents['train']['annotations'])} training instances"
    )


def _vocabulary(number: int, other_than: int = 0) -> tuple[list[tuple[str, float]], list[Look]]:
    """The categories in alphabetical order: (group, rank in the group from 0 to 1), and their looks.

    Group sizes are in the proportions of LVIS v1, at least one category each. None of the categories is one
    of those that a vocabulary of ``other_than`` categories has.
    """
    total = sum(GROUP_SIZES.values())
    rare, common = (max(1, round(number * GROUP_SIZES[group] / total)) for group in "rc")
    frequent = number - rare - common
    taken = set(_vocabulary(other_than)[1]) if other_than else set()
    looks = list(islice((look for look in _spread() if look not in taken), frequent))
    taken.update(looks)
    while len(looks) < number:
        index = len(looks) - frequent
        look = next(look for look in _relatives(looks, index, frequent) if look not in taken)
        looks.append(look)
        taken.add(look)
    ranks = [
        (group, position / max(size - 1, 1))
        for group, size in (("f", frequent), ("r", rare), ("c", common))
        for position in range(size)
    ]
    order = sorted(range(number), key=lambda index: looks[index].name)
    return [ranks[index] for index in order], [looks[index] for index in order]


def _spread() -> Iterator[Look]:
    """All looks, such that the first ones are spread over all shapes, textures and colours."""
    shapes, textures, colours = len(SHAPES), len(TEXTURES), list(HUES)
    for index in range(shapes * textures * len(HUES)):
        # steps that share no divisor with the sizes
        turn, texture = index // shapes, (index + index // shapes) % textures
        colour = (3 * index + turn + index // (shapes * len(HUES))) % len(HUES)
        yield Look(SHAPES[index % shapes], TEXTURES[texture], colours[colour])


def _relatives(looks: list[Look], index: int, frequent: int) -> Iterator[Look]:
    """Looks that differ from a frequent category in one attribute: texture and neighbouring hue in turn."""
    colours = list(HUES)
    for step in range(frequent * len(TEXTURES) * len(HUES)):
        base = looks[(index + step) % frequent]
        texture = TEXTURES.index(base.texture)
        colour = colours.index(base.colour)
        shift = 1 + step // frequent
        other_texture = Look(base.shape, TEXTURES[(texture + shift) % len(TEXTURES)], base.colour)
        other_colour = Look(base.shape, base.texture, colours[(colour + shift) % len(HUES)])
        yield from (other_texture, other_colour) if index % 2 == 0 else (other_colour, other_texture)
    for shape in SHAPES:
        for texture_name in TEXTURES:
            yield from (Look(shape, texture_name, colour_name) for colour_name in colours)


def _train_counts(options: "Synthetic", ranks: list[tuple[str, float]]) -> NDArray[np.int64]:
    """Training images of every category, (C,): LVIS v1's rank curves, scaled down for few images."""
    images = options.train_images
    # Frequent counts are mapped between these bounds on a logarithmic scale; 600 images: 105 to 252.
    low, high = (
        (0.175 * images, 0.42 * images) if images >= 600 else (min(105.0, 0.45 * images), 0.42 * images)
    )
    high = max(high, 0.6 * images if images < 250 else low)
    shrink = min(1.0, low / 105)
    curve = np.log(FREQUENT_QUANTILES)
    curve = np.exp(np.interp(curve, curve[[0, -1]], np.log([low, high])))
    grid = np.linspace(0, 1, 11)
    counts = np.array(
        [
            np.interp(rank, grid, curve)
            if group == "f"
            else shrink * np.interp(rank, grid, COMMON_QUANTILES if group == "c" else RARE_QUANTILES)
            for group, rank in ranks
        ]
    )
    counts *= min(1.0, OBJECTS_PER_IMAGE * images / counts.sum())
    return np.clip(np.rint(counts), 1, images).astype(np.int64)


def _val_counts(options: "Synthetic", ranks: list[tuple[str, float]]) -> NDArray[np.int64]:
    """Validation images of every category, (C,): nearly balanced, so that every AP is meaningful."""
    images = options.val_images
    weights = np.array([{"r": 1.0, "c": 1.3, "f": 1.6}[group] for group, _ in ranks])
    return np.clip(np.rint(weights * 4 * images / weights.sum()), 1, max(1, 0.8 * images)).astype(np.int64)


def _split(split: str, design: _Design, options: "Synthetic", folder: Path) -> dict[str, Any]:
    """Draw the images of a split and return its annotation file."""
    targets = design.targets[split]
    number = options.train_images if split == "train" else options.val_images
    labels_of = _assign(targets, number, derive_seed(options.seed, f"synthetic/{split}/assignment"))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    # Image ids of the two splits are disjoint, as in LVIS.
    first = 1 if split == "train" else options.train_images + 1
    for index, labels in enumerate(tracked(labels_of, f"{split} images")):
        generator = np.random.Generator(
            np.random.PCG64(derive_seed(options.seed, f"synthetic/{split}/image", index))
        )
        objects = design.objects(labels, generator)
        name = f"{split}_{index + 1:06d}.{design.suffix}"
        # each format takes its own of the two
        design.render(objects, generator).save(folder / name, compress_level=1, quality=90)
        negatives = design.absent(labels, generator)
        images.append(_image_record(first + index, name, options.image_size, negatives, objects))
        annotations += _annotation_records(first + index, len(annotations) + 1, objects, design)
    return {
        "info": FILE_INFO,
        "licenses": [FILE_LICENSE],
        "images": images,
        "annotations": annotations,
        "categories": _category_records(design, targets, annotations),
    }


def _image_record(
    image_id: int, name: str, size: int, negatives: list[int], objects: list[Object]
) -> dict[str, Any]:
    """One entry of ``images``; ``negatives`` are labels of categories that are verified to be absent."""
    return {
        "id": image_id,
        "width": size,
        "height": size,
        "file_name": name,
        "coco_url": f"http://synthetic.invalid/images/{name}",
        "flickr_url": "",
        "date_captured": "2000-01-01 00:00:00",
        "license": 1,
        "neg_category_ids": sorted(label + 1 for label in negatives),
        "not_exhaustive_category_ids": sorted({item.label + 1 for item in objects if not item.annotated}),
    }


def _annotation_records(
    image_id: int, first_id: int, objects: list[Object], design: _Design
) -> list[dict[str, Any]]:
    """Entries of ``annotations`` for the annotated objects of one image, with consecutive ids."""
    annotated = [position for position, item in enumerate(objects) if item.annotated]
    return [
        {"id": id_, "image_id": image_id, "category_id": objects[position].label + 1}
        | measure(design.polygons(objects, position))
        for id_, position in enumerate(annotated, start=first_id)
    ]


def _category_records(
    design: _Design, image_counts: NDArray[np.int64], annotations: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Entries of ``categories``, with their image and instance counts."""
    looks = design.looks
    instances = np.bincount([item["category_id"] - 1 for item in annotations], minlength=len(looks))
    return [
        {
            "id": label + 1,
            "name": look.name,
            "synset": f"{look.name}.n.01",
            "synonyms": [look.name],
            "def": f"a {look.name.replace('_', ' ')}",
            "image_count": int(image_counts[label]),
            "instance_count": int(instances[label]),
            "frequency": design.letters[label],
        }
        for label, look in enumerate(looks)
    ]


def _assign(targets: NDArray[np.int64], images: int, seed: int) -> list[list[int]]:
    """Labels of every image: each category gets its number of images, and images have similar numbers of
    objects."""
    generator = np.random.Generator(np.random.PCG64(seed))
    load = np.zeros(images)
    labels: list[list[int]] = [[] for _ in range(images)]
    for label in np.argsort(-targets, kind="stable"):
        # Without the random part every image would hold the same number of categories.
        chosen = np.argsort(load + generator.uniform(0, 2.5, images), kind="stable")[: targets[label]]
        load[chosen] += 1
        for image in chosen:
            labels[image].append(int(label))
    for empty in (image for image in labels if not image):
        fullest = max(labels, key=len)
        if len(fullest) > 1:
            empty.append(fullest.pop())
    return labels


def _layout(labels: list[int], looks: list[Look], size: int, generator: np.random.Generator) -> list[Object]:
    """The objects of an image, back to front."""
    extra = [label for label in labels if generator.random() < 0.2][: max(0, 7 - len(labels))]
    # the visible part of smaller objects may consist of specks
    radii = max(SMALLEST * size, 6.0), LARGEST * size
    shuffled = generator.permutation([*labels, *extra]).tolist()
    objects = arrange(shuffled, looks, radii, size, generator)
    twice = [position for position, item in enumerate(objects) if item.label in extra]
    if twice and generator.random() < 0.1:
        objects[int(generator.choice(twice))].annotated = False
    return objects


def _render(
    objects: list[Object], looks: list[Look], size: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """The image (H, W, 3): a dull, blotchy, noisy background and saturated objects with soft edges."""
    ground = np.array(colorsys.hsv_to_rgb(generator.random(), 0.15, generator.uniform(0.35, 0.65)))
    blotches = generator.uniform(-0.12, 0.12, (size // 16 + 2, size // 16 + 2))
    pixels = ground + _enlarge(blotches, size)[..., None]
    for item in objects:
        look = looks[item.label]
        hue = (HUES[look.colour] + generator.uniform(-5, 5)) / 360
        light = generator.uniform(0.85, 1.0)
        colour = np.array(colorsys.hsv_to_rgb(hue % 1, 0.9, light))
        # Patterns are dark on the colour, so that texture and hue can be told apart.
        mark = pattern(look.texture, item.local, item.radius)[..., None]
        paint = colour * (1 - 0.75 * mark)
        opacity = np.clip(item.field + 0.5, 0, 1)[..., None]
        pixels[item.window] += opacity * (paint - pixels[item.window])
    pixels += generator.normal(0, 0.025, (size, size, 1))
    return np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def _enlarge(grid: Field, size: int) -> Field:
    """Bilinear interpolation of a coarse grid with a point every 16 pixels."""
    position = np.arange(size) / 16
    index = position.astype(int)
    rest = position - index
    rows = grid[index] * (1 - rest)[:, None] + grid[index + 1] * rest[:, None]
    return rows[:, index] * (1 - rest) + rows[:, index + 1] * rest
