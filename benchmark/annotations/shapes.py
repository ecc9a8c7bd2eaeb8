"""Objects of generated images: outlines, textures, places, and the polygons of what is visible of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
"""Signed distance to an outline in pixels (H, W), positive inside."""

Window = tuple[slice, slice]
"""Rows and columns of an image."""

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

VISIBLE = 0.5  # least visible fraction of an object


@dataclass(frozen=True)
class Look:
    """What a category looks like. The texture is a darker shade of the colour, or of a colour of its own
    (``mark``)."""

    shape: str
    texture: str
    colour: str
    mark: str | None = None

    @property
    def name(self) -> str:
        """Of the category."""
        return "_".join(filter(None, (self.texture, self.colour, self.mark, self.shape)))


@dataclass
class Object:
    """An object in an image.

    Attributes:
        label: of its category.
        radius: pixels.
        centre: (2,) x and y in pixels.
        angle: of its axes, radians.
        window: rows and columns of the image (h, w) that hold the object with a margin.
        local: (2, h, w): coordinates of the window's pixels along the object's axes, in radii.
        field: (h, w).
        covered: whether another object or the image's border hides a part of it.
        annotated: whether the ground truth has it.
    """

    label: int
    radius: float
    centre: Field
    angle: float
    window: Window
    local: Field
    field: Field
    covered: bool = False
    annotated: bool = True


def arrange(
    labels: Sequence[int],
    looks: Sequence[Look],
    radii: tuple[float, float],
    size: int,
    generator: np.random.Generator,
    precision: type[np.floating[Any]] = np.float64,
) -> list[Object]:
    """Place objects with labels, back to front, so that the fraction VISIBLE of each remains visible.

    Args:
        labels: of the objects.
        looks: of all categories.
        radii: the least and the largest radius, pixels.
        size: side of the image, pixels.
        generator: of the draws.
        precision: of fields; float32 takes half the time.
    """
    objects: list[Object] = []
    areas: list[int] = []
    seen: list[NDArray[np.bool_]] = []
    for label in labels:
        radius = float(np.exp(generator.uniform(np.log(radii[0]), np.log(radii[1]))))
        while True:
            item = _place(label, looks[label].shape, radius, size, generator, precision)
            mask = item.field > 0
            covered = [
                (number, *windows)
                for number, other in enumerate(objects)
                if (windows := _common(other.window, item.window)) is not None
            ]
            left = {number: seen[number].copy() for number, _, _ in covered}
            for number, theirs, own in covered:
                left[number][theirs] &= ~mask[own]
            if all(part.sum() >= VISIBLE * areas[number] for number, part in left.items()):
                break
            radius = max(0.95 * radius, radii[0])
        for number, part in left.items():
            objects[number].covered |= bool(part.sum() < seen[number].sum())
            seen[number] = part
        seen.append(mask)
        areas.append(int(mask.sum()))
        objects.append(item)
    return objects


def _common(one: Window, two: Window) -> tuple[Window, Window] | None:
    """What two windows share, as rows and columns of each; None where they do not meet."""
    (rows, columns), (other_rows, other_columns) = one, two
    top, bottom = max(rows.start, other_rows.start), min(rows.stop, other_rows.stop)
    left, right = max(columns.start, other_columns.start), min(columns.stop, other_columns.stop)
    if top >= bottom or left >= right:
        return None
    return (
        (slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start)),
        (
            slice(top - other_rows.start, bottom - other_rows.start),
            slice(left - other_columns.start, right - other_columns.start),
        ),
    )


def _place(
    label: int,
    shape: str,
    radius: float,
    size: int,
    generator: np.random.Generator,
    precision: type[np.floating[Any]],
) -> Object:
    """An object at a random place and angle; up to about a seventh of it may be outside the image."""
    angle = generator.uniform(0, 2 * np.pi)
    centre = generator.uniform(0.7 * radius, size - 0.7 * radius, 2)
    reach = 1.1 * radius + 3
    left, top = np.maximum(np.floor(centre - reach), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(centre + reach), size).astype(int).tolist()
    x = (np.arange(left, right) + 0.5 - centre[0]).astype(precision)
    y = (np.arange(top, bottom)[:, None] + 0.5 - centre[1]).astype(precision)
    cos, sin = float(np.cos(angle) / radius), float(np.sin(angle) / radius)
    local = np.stack([cos * x + sin * y, cos * y - sin * x])
    window = (slice(top, bottom), slice(left, right))
    field = radius * _outline(shape, *local)
    beyond = bool((abs(centre - size / 2) + 1.14 * radius > size / 2).any())
    return Object(label, radius, centre, angle, window, local, field, covered=beyond)


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
    normal = float(notch * np.sin(half)), float(1 - notch * np.cos(half))
    along = normal[0] * np.cos(folded) + normal[1] * np.sin(folded)
    return (normal[0] - distance * along) / float(np.hypot(*normal))


def pattern(texture: str, local: Field, radius: float) -> Field:
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


def visible_polygons(objects: Sequence[Object], position: int) -> list[NDArray[np.float64]]:
    """Outlines (points, 2) in pixels of what later objects leave of one; specks below 4 square pixels are
    dropped. LVIS polygons cannot have holes, so one with a hole comes as a left and a right half."""
    item = objects[position]
    field = item.field.copy()
    for later in objects[position + 1 :]:
        windows = _common(item.window, later.window)
        if windows is not None:
            own, theirs = windows
            field[own] = np.minimum(field[own], -later.field[theirs])
    rows, columns = item.window
    return _polygons((field, columns.start, rows.start))


def whole_polygons(item: Object, shape: str) -> list[NDArray[np.float64]]:
    """As ``visible_polygons`` of one that nothing covers, from its shape, in a tenth of the time."""
    cos, sin = np.cos(item.angle), np.sin(item.angle)
    turned = item.radius * np.array([[cos, sin], [-sin, cos]])
    return [(outline @ turned + item.centre).round(2) for outline in _unit_outlines(shape)]


@lru_cache
def _unit_outlines(shape: str) -> list[NDArray[np.float64]]:
    """Outlines (points, 2) of a shape with a radius of 1, as those of an object of 32 pixels are."""
    side, radius = 72, 32
    x = (np.arange(side) + 0.5 - side / 2) / radius
    field = radius * _outline(shape, *np.meshgrid(x, x))
    return [(outline - side / 2) / radius for outline in _polygons((field, 0, 0))]


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
    for line in _contours(framed).lines(0.0):
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


def _contours(field: Field) -> contourpy.SerialContourGenerator:
    """What ``contourpy.contour_generator(z=field)`` makes, whose checks take as long as the lines."""
    x, y = np.meshgrid(*(np.arange(length, dtype=np.float64) for length in field.shape[::-1]))
    return contourpy.SerialContourGenerator(
        x,
        y,
        field.astype(np.float64, copy=False),
        np.zeros(field.shape, np.bool_),
        corner_mask=True,
        line_type=contourpy.LineType.Separate,
        fill_type=contourpy.FillType.OuterOffset,
        quad_as_tri=False,
        z_interp=contourpy.ZInterp.Linear,
    )


def _signed_area(points: NDArray[np.float64]) -> float:
    x, y = points.T
    return float(np.dot(x, _turned(y, 1)) - np.dot(y, _turned(x, 1))) / 2


def _turned(values: Field, steps: int) -> Field:
    """A closed list that begins ``steps`` items later; ``np.roll`` takes ten times as long."""
    return np.concatenate([values[steps:], values[:steps]])


def _simplify(points: NDArray[np.float64], tolerance: float = 0.05) -> NDArray[np.float64]:
    """Thin out a closed outline and round it to hundredths like LVIS.

    Points that lie within ``tolerance`` of the line between their neighbours go, every other one at a time; a
    few rounds leave a handful on a straight edge and stay within a fraction of a pixel on a curve.
    """
    for start in (0, 1) * 4:
        before, after = _turned(points, -1), _turned(points, 1)
        (dx, dy), (px, py) = (after - before).T, (points - before).T
        drop = abs(dx * py - dy * px) < tolerance * np.hypot(dx, dy)
        drop[start::2] = False
        if len(points) - drop.sum() >= 4:
            points = points[~drop]
    return points.round(2)


def measure(polygons: list[NDArray[np.float64]]) -> dict[str, Any]:
    """Segmentation, area and box of an annotation, all from the same rounded polygons."""
    points = np.concatenate(polygons)
    left, top = points.min(axis=0)
    width, height = points.max(axis=0) - [left, top]
    return {
        "segmentation": [polygon.ravel().tolist() for polygon in polygons],
        "area": round(sum(abs(_signed_area(polygon)) for polygon in polygons), 2),
        "bbox": [round(float(value), 2) for value in (left, top, width, height)],
    }
