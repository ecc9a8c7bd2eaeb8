"""A small dataset with LVIS's long tail, drawn instead of downloaded.

Categories are combinations of shape, texture and colour. Every rare or common category differs from a
frequent one in exactly one of the three, so that a classifier which leans towards frequent categories loses
the rare ones, which is what the methods under test are about. Everything is drawn from generators seeded for
one image
each: the same options give the same bytes.
"""

import colorsys
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contourpy
import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.annotations.reading import AnnotationError, frequency_letter
from benchmark.files import file_error, remove_abandoned, temporary_prefix
from benchmark.progress import tracked
from benchmark.seeds import derive_seed

if TYPE_CHECKING:
    from benchmark.recipes.models import Synthetic

Field = NDArray[np.float64]
"""Signed distance to an outline in pixels (H, W), positive inside."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "pentagon", "crescent")
TEXTURES = ("plain", "striped", "dotted", "checked")
HUES = {
    "red": 0,
    "orange": 30,
    "yellow": 56,
    "green": 120,
    "cyan": 184,
    "blue": 222,
    "purple": 272,
    "pink": 322,
}

# Train image counts of LVIS v1 inside its groups: minimum, deciles, maximum
# (tests/data/lvis_v1_categories.csv).
GROUP_SIZES = {"r": 337, "c": 461, "f": 405}
RARE_QUANTILES = (1, 1, 1, 2, 3, 4, 5, 6, 7, 9, 10)
COMMON_QUANTILES = (11, 13, 16, 22, 28, 32, 40, 48, 62, 76, 100)
FREQUENT_QUANTILES = (101, 128, 186, 245, 353, 588, 858, 1395, 1789, 1903, 1977)

OBJECTS_PER_IMAGE = 5.5  # upper bound of the mean number of categories in a training image
SMALLEST, LARGEST = 9 / 160, 35 / 160  # object radius relative to the image's side
VISIBLE = 0.5  # the least fraction of an object that later ones leave visible


@dataclass(frozen=True)
class _Look:
    shape: str
    texture: str
    colour: str

    @property
    def name(self) -> str:
        return f"{self.texture}_{self.colour}_{self.shape}"


@dataclass
class _Object:
    label: int
    radius: float
    window: tuple[slice, slice]  # rows and columns that hold the object with a margin
    local: Field  # (2, h, w): coordinates of the window's pixels along the object's axes, in radii
    field: Field  # (H, W)
    annotated: bool = True


def synthesize_dataset(options: "Synthetic", output: Path | str) -> str:
    """Write ``images/*.png``, ``train.json`` and ``val.json`` (LVIS v1) into ``output``; returns one line.

    With 600 training images or more the categories' train image counts follow LVIS v1's groups and their
    thresholds; fewer images hold smaller counts, and the letters follow the counts. The frequency letter is
    by train images in both files, ``image_count`` and ``instance_count`` are those of the file. In about one
    image of twenty one object of a category that occurs twice is left unannotated and the category is listed
    in ``not_exhaustive_category_ids``. Objects cover each other; polygons follow what is visible. Other files
    in ``output`` are left alone, and the three are only replaced when all of them are complete.
    Raises ``AnnotationError`` for more categories than the images can hold, ``FileError`` if writing fails.
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


def _generate(options: "Synthetic", folder: Path) -> str:
    """Draw both splits into a folder."""
    ranks, looks = _vocabulary(options.categories)
    targets = {"train": _train_counts(options, ranks), "val": _val_counts(options, ranks)}
    contents = {split: _split(split, targets[split], looks, options, folder / "images") for split in targets}
    letters: list[str] = [frequency_letter(int(count)) for count in targets["train"]]
    for content in contents.values():
        for category, letter in zip(content["categories"], letters, strict=True):
            category["frequency"] = letter
    for split, content in contents.items():
        (folder / f"{split}.json").write_bytes(msgspec.json.encode(content))
    groups = " / ".join(str(letters.count(letter)) for letter in "rcf")
    return (
        f"{options.train_images} training and {options.val_images} validation images, "
        f"{options.categories} categories (rare / common / frequent {groups}), "
        f"{len(contents['train']['annotations'])} training instances"
    )


def _vocabulary(number: int) -> tuple[list[tuple[str, float]], list[_Look]]:
    """The categories in alphabetical order: (group, rank in the group from 0 to 1), and their looks.

    Group sizes are in the proportions of LVIS v1, at least one category each.
    """
    total = sum(GROUP_SIZES.values())
    rare, common = (max(1, round(number * GROUP_SIZES[group] / total)) for group in "rc")
    frequent = number - rare - common
    looks: list[_Look] = []
    shapes, textures, colours = len(SHAPES), len(TEXTURES), list(HUES)
    for index in range(frequent):
        # Steps that share no divisor with the sizes spread the frequent categories over all three attributes.
        turn, texture = index // shapes, (index + index // shapes) % textures
        colour = (3 * index + turn + index // (shapes * len(HUES))) % len(HUES)
        looks.append(_Look(SHAPES[index % shapes], TEXTURES[texture], colours[colour]))
    taken = set(looks)
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


def _relatives(looks: list[_Look], index: int, frequent: int) -> Iterator[_Look]:
    """Looks that differ from a frequent category in one attribute: texture and neighbouring hue in turn."""
    colours = list(HUES)
    for step in range(frequent * len(TEXTURES) * len(HUES)):
        base = looks[(index + step) % frequent]
        texture = TEXTURES.index(base.texture)
        colour = colours.index(base.colour)
        shift = 1 + step // frequent
        other_texture = _Look(base.shape, TEXTURES[(texture + shift) % len(TEXTURES)], base.colour)
        other_colour = _Look(base.shape, base.texture, colours[(colour + shift) % len(HUES)])
        yield from (other_texture, other_colour) if index % 2 == 0 else (other_colour, other_texture)
    for shape in SHAPES:
        for texture_name in TEXTURES:
            yield from (_Look(shape, texture_name, colour_name) for colour_name in colours)


def _train_counts(options: "Synthetic", ranks: list[tuple[str, float]]) -> NDArray[np.int64]:
    """Training images of every category, (C,): LVIS v1's rank curves, as far as the images suffice."""
    images = options.train_images
    # Frequent counts are squeezed between these bounds on a logarithmic scale; 600 images: 105 to 252.
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
    """Validation images of every category, (C,): nearly balanced, so that every AP means something."""
    images = options.val_images
    weights = np.array([{"r": 1.0, "c": 1.3, "f": 1.6}[group] for group, _ in ranks])
    return np.clip(np.rint(weights * 4 * images / weights.sum()), 1, max(1, 0.8 * images)).astype(np.int64)


def _split(
    split: str, targets: NDArray[np.int64], looks: list[_Look], options: "Synthetic", folder: Path
) -> dict[str, Any]:
    """Draw the images of a split and return its annotation file, without frequency letters."""
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
        objects = _layout(labels, looks, options.image_size, generator)
        name = f"{split}_{index + 1:06d}.png"
        pixels = _render(objects, looks, options.image_size, generator)
        Image.fromarray(pixels).save(folder / name, compress_level=1)
        absent = sorted(set(range(len(looks))) - set(labels))
        wanted = min(len(absent), max(1, len(looks) // 4))
        negatives: list[int] = generator.permutation(absent)[:wanted].tolist()
        images.append(
            {
                "id": first + index,
                "width": options.image_size,
                "height": options.image_size,
                "file_name": name,
                "coco_url": f"http://synthetic.invalid/images/{name}",
                "flickr_url": "",
                "date_captured": "2000-01-01 00:00:00",
                "license": 1,
                "neg_category_ids": sorted(label + 1 for label in negatives),
                "not_exhaustive_category_ids": sorted(
                    {item.label + 1 for item in objects if not item.annotated}
                ),
            }
        )
        for position, item in enumerate(objects):
            if item.annotated:
                polygons = _polygons(_visible(objects, position))
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": first + index, "category_id": item.label + 1}
                    | _measure(polygons)
                )
    instances = np.bincount([item["category_id"] - 1 for item in annotations], minlength=len(looks))
    categories = [
        {
            "id": label + 1,
            "name": look.name,
            "synset": f"{look.name}.n.01",
            "synonyms": [look.name],
            "def": f"a {look.texture} {look.colour} {look.shape}",
            "image_count": int(targets[label]),
            "instance_count": int(instances[label]),
            "frequency": "",
        }
        for label, look in enumerate(looks)
    ]
    return {
        "info": {
            "description": "synthetic long-tailed instance segmentation",
            "version": "v1",
            "year": 2000,
            "contributor": "longtail synthesize",
            "url": "",
            "date_created": "2000-01-01",
        },
        "licenses": [
            {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
        ],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def _assign(targets: NDArray[np.int64], images: int, seed: int) -> list[list[int]]:
    """Labels of every image: each category gets its number of images, images are about equally full."""
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


def _layout(
    labels: list[int], looks: list[_Look], size: int, generator: np.random.Generator
) -> list[_Object]:
    """Place the objects of an image, back to front, so that at least VISIBLE of every one can be seen."""
    extra = [label for label in labels if generator.random() < 0.2][: max(0, 7 - len(labels))]
    objects: list[_Object] = []
    areas: list[int] = []
    seen: list[NDArray[np.bool_]] = []
    least = max(SMALLEST * size, 6.0)  # in smaller ones what remains visible may fall into specks
    for label in generator.permutation([*labels, *extra]).tolist():
        radius = float(np.exp(generator.uniform(np.log(least), np.log(LARGEST * size))))
        while True:
            item = _place(label, looks[label].shape, radius, size, generator)
            mask = item.field > 0
            if all((part & ~mask).sum() >= VISIBLE * area for part, area in zip(seen, areas, strict=True)):
                break
            radius = max(0.95 * radius, least)
        seen = [*(part & ~mask for part in seen), mask]
        areas.append(int(mask.sum()))
        objects.append(item)
    twice = [position for position, item in enumerate(objects) if item.label in extra]
    if twice and generator.random() < 0.1:
        objects[int(generator.choice(twice))].annotated = False
    return objects


def _place(label: int, shape: str, radius: float, size: int, generator: np.random.Generator) -> _Object:
    """An object at a random place and angle; up to about a seventh of it may leave the image."""
    angle = generator.uniform(0, 2 * np.pi)
    centre = generator.uniform(0.7 * radius, size - 0.7 * radius, 2)
    reach = 1.1 * radius + 3
    left, top = np.maximum(np.floor(centre - reach), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(centre + reach), size).astype(int).tolist()
    x = np.arange(left, right) + 0.5 - centre[0]
    y = np.arange(top, bottom)[:, None] + 0.5 - centre[1]
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    local = np.stack([cos * x + sin * y, cos * y - sin * x])
    window = (slice(top, bottom), slice(left, right))
    field = np.full((size, size), -float(size))
    field[window] = radius * _outline(shape, *local)
    return _Object(label, radius, window, local, field)


def _outline(shape: str, x: Field, y: Field) -> Field:
    """Signed distance (nearly) to an outline in radii, positive inside; shapes fill the unit circle."""
    distance = np.hypot(x, y)
    if shape == "circle":
        return 0.9 - distance
    if shape == "square":
        return 0.8 - np.maximum(abs(x), abs(y))
    if shape == "ring":
        return np.minimum(0.95 - distance, distance - 0.45)
    if shape == "crescent":
        return np.minimum(0.95 - distance, np.hypot(x - 0.5, y) - 0.7)
    if shape == "cross":
        long, short = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
        return np.minimum(0.95 - long, 0.32 - short)
    # The others repeat a sector with a tip at angle 0: fold the plane into one half of it.
    sides = 3 if shape == "triangle" else 5
    half = np.pi / sides
    folded = abs((np.arctan2(y, x) + half) % (2 * half) - half)
    notch = 0.48 if shape == "star" else np.cos(half)
    normal = np.array([notch * np.sin(half), 1 - notch * np.cos(half)])
    along = normal[0] * np.cos(folded) + normal[1] * np.sin(folded)
    return (normal[0] - distance * along) / np.hypot(*normal)


def _render(
    objects: list[_Object], looks: list[_Look], size: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """The image (H, W, 3): dull, blotchy, noisy ground and saturated objects with soft edges."""
    ground = np.array(colorsys.hsv_to_rgb(generator.random(), 0.15, generator.uniform(0.35, 0.65)))
    blotches = generator.uniform(-0.12, 0.12, (size // 16 + 2, size // 16 + 2))
    pixels = ground + _enlarge(blotches, size)[..., None]
    for item in objects:
        look = looks[item.label]
        inside = item.field[item.window]
        hue = (HUES[look.colour] + generator.uniform(-5, 5)) / 360
        light = generator.uniform(0.85, 1.0)
        colour = np.array(colorsys.hsv_to_rgb(hue % 1, 0.9, light))
        # Patterns are dark on the colour, so that texture and hue can be told apart.
        mark = _pattern(look.texture, item.local, item.radius)[..., None]
        paint = colour * (1 - 0.75 * mark)
        opacity = np.clip(inside + 0.5, 0, 1)[..., None]
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


def _pattern(texture: str, local: Field, radius: float) -> Field:
    """How dark the texture makes every pixel, 0 to 1; its period is half a radius, at least 5 pixels."""
    if texture == "plain":
        return np.zeros_like(local[0])
    wave_x, wave_y = np.cos(2 * np.pi / max(0.5, 5 / radius) * local)
    if texture == "striped":
        strength = wave_x
    elif texture == "checked":
        strength = wave_x * wave_y
    else:
        strength = wave_x + wave_y - 0.7
    return np.clip(0.5 + 2 * strength, 0, 1)


def _visible(objects: list[_Object], position: int) -> tuple[Field, int, int]:
    """What later objects leave of an object: signed distance in its window, and the window's left and top."""
    rows, columns = objects[position].window
    field = objects[position].field[rows, columns]
    for later in objects[position + 1 :]:
        field = np.minimum(field, -later.field[rows, columns])
    return field, columns.start, rows.start


def _polygons(part: tuple[Field, int, int]) -> list[NDArray[np.float64]]:
    """Outlines (points, 2) in pixels of where a field is positive; specks below 4 square pixels are dropped.

    LVIS polygons cannot have holes, so a field with a hole is cut through it into a left and a right half.
    """
    field, left, top = part
    # The frame makes outlines close exactly on the field's border, half a pixel beyond its outermost centres.
    framed = np.pad(field, 1, mode="edge")
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        framed[edge] = -abs(framed[edge])
    outlines = []
    for line in contourpy.contour_generator(z=framed).lines(0.0):
        points = np.asarray(line)[:-1] - 0.5
        area = _signed_area(points)
        if abs(area) < 4:
            continue
        if area < 0:
            cut = int(np.clip(np.rint(points[:, 0].mean()), 1, field.shape[1] - 1))
            halves = (field[:, :cut], left, top), (field[:, cut:], left + cut, top)
            return [*_polygons(halves[0]), *_polygons(halves[1])]
        outlines.append(_simplify(points + np.array([left, top])))
    return outlines


def _signed_area(points: NDArray[np.float64]) -> float:
    x, y = points.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _simplify(points: NDArray[np.float64], tolerance: float = 0.05) -> NDArray[np.float64]:
    """Thin out a closed outline and round it to hundredths like LVIS.

    Points that lie within ``tolerance`` of the line between their neighbours go, every other one at a time; a
    few rounds leave a handful on a straight edge and stay within a fraction of a pixel on a curve.
    """
    for start in (0, 1) * 4:
        before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
        (dx, dy), (px, py) = (after - before).T, (points - before).T
        drop = abs(dx * py - dy * px) < tolerance * np.hypot(dx, dy)
        drop[start::2] = False
        if len(points) - drop.sum() >= 4:
            points = points[~drop]
    return points.round(2)


def _measure(polygons: list[NDArray[np.float64]]) -> dict[str, Any]:
    """Segmentation, area and box of an annotation, all from the same rounded polygons."""
    points = np.concatenate(polygons)
    left, top = points.min(axis=0)
    width, height = points.max(axis=0) - [left, top]
    return {
        "segmentation": [polygon.ravel().tolist() for polygon in polygons],
        "area": round(sum(abs(_signed_area(polygon)) for polygon in polygons), 2),
        "bbox": [round(float(value), 2) for value in (left, top, width, height)],
    }
