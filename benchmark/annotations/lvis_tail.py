"""The generated dataset with LVIS v1's categories by number: its counts, federated lists and crowded images.

Every category has the images and instances of one of LVIS v1, scaled by the number of training images over
LVIS' (at least one image each), and that category's frequency letter. A look is a shape and a texture in one
or two colours; every rare and common category differs from a frequent one in one of them. An image says for a
few categories that they are absent and of few that not all objects are annotated, as often as LVIS does, and
has objects of the same category in groups.
"""

import colorsys
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.annotations.shapes import (
    HUES,
    SHAPES,
    TEXTURES,
    Look,
    Object,
    arrange,
    pattern,
    visible_polygons,
    whole_polygons,
)
from benchmark.seeds import derive_seed

# id, name, frequency, image_count, instance_count of LVIS v1's training split (tests/data/README.md)
COUNTS = Path(__file__).with_name("lvis_v1_counts.csv")
TRAIN_IMAGES = 100_170  # of LVIS v1
# Means of LVIS' images (tests/data/lvis_val_100.json): categories that are stated to be absent, and the part
# of those present of which not all objects are annotated
ABSENT, NOT_EXHAUSTIVE = 9.4, 0.053
ABSENT_WEIGHTS = {"r": 0.35, "c": 0.95, "f": 1.1}  # of a category of a group, relative to each other
MOST_OBJECTS = 30  # of an image, unless it has more categories
# Radii relative to the image's side, 6 pixels at least; half of LVIS' objects are smaller than 32 x 32 pixels
SMALLEST, LARGEST = 6 / 480, 50 / 480


class LvisTail:
    """Categories, counts and images.

    Args:
        images: number of each split.
        size: side of an image, pixels.
        seed: of the images.

    Attributes:
        looks: of all categories, in alphabetical order.
        letters: ``r``, ``c`` or ``f`` of each.
        targets: images (C,) of each split.
        suffix: of image files.
    """

    suffix = "jpg"

    def __init__(self, images: Mapping[str, int], size: int, seed: int) -> None:
        with COUNTS.open(newline="", encoding="utf-8") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: -int(row["image_count"]))
        looks = _looks(len(rows), sum(row["frequency"] == "f" for row in rows))
        # frequent ones have the first looks; a neighbour of any of them may be rare or common
        order = sorted(range(len(looks)), key=lambda number: looks[number].name)
        self.looks = [looks[number] for number in order]
        self.letters: list[str] = [rows[number]["frequency"] for number in order]
        image_counts, instance_counts = (
            np.array([int(rows[number][column]) for number in order])
            for column in ("image_count", "instance_count")
        )
        self.targets = {
            split: np.clip(np.rint(image_counts * number / TRAIN_IMAGES), 1, number).astype(np.int64)
            for split, number in images.items()
        }
        self._each = instance_counts / image_counts  # of an image with the category
        weights = np.array([ABSENT_WEIGHTS[letter] for letter in self.letters])
        self._absent = weights / weights.sum()
        self._size, self._seed = size, seed
        self._radii = max(SMALLEST * self._size, 6.0), max(LARGEST * self._size, 7.0)

    def objects(self, labels: list[int], generator: np.random.Generator) -> list[Object]:
        """The objects of an image with these categories, back to front."""
        most = max(MOST_OBJECTS, len(labels))
        # as many of each as LVIS has on average, in images that differ widely
        extra = np.repeat(labels, generator.geometric(1 / self._each[labels]) - 1)[: most - len(labels)]
        shuffled = generator.permutation([*labels, *extra.tolist()]).tolist()
        objects = arrange(shuffled, self.looks, self._radii, self._size, generator, np.float32)
        for label in labels:
            own = [item for item in objects if item.label == label]
            if generator.random() < NOT_EXHAUSTIVE and own[1:]:
                own[0].annotated = False
        return objects

    def render(self, objects: Sequence[Object], generator: np.random.Generator) -> Image.Image:
        """The image: dull, blotchy, noisy ground and saturated objects with soft edges."""
        ground = 255 * np.array(colorsys.hsv_to_rgb(generator.random(), 0.15, generator.uniform(0.3, 0.5)))
        top, left = generator.integers(self._size, size=2).tolist()
        part = _blotches(self._size, self._seed)[top : top + self._size, left : left + self._size]
        # row by row, because a sum over three channels at a time takes 20 times as long
        rows = part.reshape(self._size, -1) + np.tile(ground.astype(np.uint8), self._size)
        image = Image.fromarray(rows.reshape(part.shape))
        for item in objects:
            self._paint(image, item, generator)
        return image

    def polygons(self, objects: Sequence[Object], position: int) -> list[NDArray[np.float64]]:
        """Outlines of what is visible of an object."""
        item = objects[position]
        if item.covered:
            return visible_polygons(objects, position)
        return whole_polygons(item, self.looks[item.label].shape)

    def absent(self, labels: list[int], generator: np.random.Generator) -> list[int]:
        """Labels of categories that the image is stated not to have."""
        drawn = generator.choice(len(self.looks), generator.poisson(ABSENT), p=self._absent)
        return sorted(set(drawn.tolist()) - set(labels))

    def _paint(self, image: Image.Image, item: Object, generator: np.random.Generator) -> None:
        look, rows_columns = self.looks[item.label], item.window
        place = rows_columns[1].start, rows_columns[0].start
        opacity = np.clip(item.field + 0.5, 0, 1) * 255
        image.paste(_colour(look.colour, generator), place, Image.fromarray(opacity.astype(np.uint8)))
        if look.mark is not None:
            opacity *= pattern(look.texture, item.local, item.radius)
            image.paste(_colour(look.mark, generator), place, Image.fromarray(opacity.astype(np.uint8)))


def _colour(name: str, generator: np.random.Generator) -> tuple[int, int, int]:
    """Of an object: RGB of nearly the hue and of any light that the name stands for."""
    hue = (HUES[name] + generator.uniform(-5, 5)) / 360
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, 0.9, generator.uniform(0.8, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)


@lru_cache(maxsize=1)
def _blotches(size: int, seed: int) -> NDArray[np.uint8]:
    """Grey blotches with noise, (2 size, 2 size, 3) in 0..100, of which every image has a part: drawing them
    anew would take most of the time."""
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "synthetic/ground")))
    coarse = Image.fromarray(generator.uniform(20, 80, (size // 8, size // 8)).astype(np.float32))
    blotches = coarse.resize((2 * size, 2 * size), Image.Resampling.BILINEAR)
    noisy = np.asarray(blotches) + generator.normal(0, 6, (2 * size, 2 * size))
    return np.repeat(np.clip(noisy, 0, 100).astype(np.uint8)[..., None], 3, axis=2)


def _looks(number: int, frequent: int) -> list[Look]:
    """Different looks. The first ``frequent`` are spread over all; each of the others differs from one of
    these in one respect."""
    every = [Look(shape, "plain", colour) for shape in SHAPES for colour in HUES]
    every += [
        Look(shape, texture, colour, mark)
        for shape in SHAPES
        for texture in TEXTURES[1:]
        for colour in HUES
        for mark in HUES
        if mark != colour
    ]
    generator = np.random.Generator(np.random.PCG64(derive_seed(0, "synthetic/looks")))
    shuffled = [every[index] for index in generator.permutation(len(every))]
    looks = shuffled[:frequent]
    free = dict.fromkeys(shuffled[frequent:])
    while len(looks) < number:
        index = len(looks) - frequent
        near = _neighbours(looks[index % frequent], index)
        look = next((look for look in near if look in free), next(iter(free)))
        del free[look]
        looks.append(look)
    return looks


def _neighbours(look: Look, first: int) -> Iterator[Look]:
    """Looks that differ in one respect; which respect comes first, the number says."""
    respects: list[tuple[str, Iterable[str]]] = [("shape", SHAPES), ("texture", TEXTURES), ("colour", HUES)]
    respects += [("mark", HUES)]
    for step in range(len(respects)):
        name, values = respects[(first + step) % len(respects)]
        yield from (replace(look, **{name: value}) for value in values)
