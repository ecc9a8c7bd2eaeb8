"""Typed reading of LVIS- and COCO-format annotation files.

Files of a gigabyte are common, so the JSON is memory-mapped and decoded directly into small structs. The
segmentations, most of the bytes, are undecoded views of the map until a mask is needed.
"""

import codecs
import mmap
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from benchmark.annotations.run_lengths import decode_run_lengths
from benchmark.errors import BenchmarkError
from benchmark.files import file_error
from benchmark.formats import BYTE_ORDER_MARK, HEAD, foreign_format


class AnnotationError(BenchmarkError):
    """An annotation file is damaged, inconsistent, or unsuitable for an operation."""


# Ids must fit int64 arrays and JSON readers that use doubles.
Id = Annotated[int, Meta(ge=0, le=2**53)]
Pixels = Annotated[int, Meta(ge=1, le=100_000)]
T = TypeVar("T")

# pycocotools needs 40 bytes for every pixel of an outline, and ends the process if it cannot allocate them. A
# real outline is a few thousand pixels long.
LONGEST_OUTLINE = 2_000_000
# Its run lengths and pixel numbers are unsigned 32-bit integers.
MOST_PIXELS = 2**32 - 1

CHECK_REMEDY = "longtail check FILE lists every problem of the file"
_YEAR_PREFIX = re.compile(r"^COCO_(?:train|val|test)2014_")


class Category(Struct, gc=False, frozen=True):
    """A category record. COCO has neither frequency nor counts."""

    id: Id
    name: str
    synset: str | None = None
    frequency: Literal["r", "c", "f"] | None = None
    image_count: int | None = None
    instance_count: int | None = None


class Image(Struct, gc=False, frozen=True):
    """An image record. LVIS v1 has only ``coco_url`` as file name; COCO has no federated lists (None)."""

    id: Id
    width: Pixels
    height: Pixels
    file_name: str | None = None
    coco_url: str | None = None
    neg_category_ids: tuple[Id, ...] | None = None
    not_exhaustive_category_ids: tuple[Id, ...] | None = None

    @property
    def relative_path(self) -> str:
        """``file_name``, or else the last two parts of ``coco_url``, e.g. ``train2017/000000391895.jpg``.

        Raises ``AnnotationError`` if there is neither, or if the name leads out of the image folder.
        """
        if self.file_name:
            return _inside(self.id, self.file_name)
        if self.coco_url:
            return _inside(self.id, "/".join(_url_parts(self)[-2:]))
        raise AnnotationError(
            "an image record names no file",
            where=f"image {self.id}",
            found="neither file_name nor coco_url",
            expected="one of them",
        )


class Rle(Struct, gc=False, frozen=True):
    """COCO's run-length code: ``size`` is (height, width), runs go down the columns, zeros first."""

    size: tuple[int, int]
    counts: str | list[Annotated[int, Meta(ge=0)]]


class Annotation(Struct, gc=False, frozen=True):
    """An object record. ``bbox`` is (x, y, width, height) in pixels, ``area`` in square pixels."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0
    ignore: int = 0
    segmentation: msgspec.Raw = msgspec.Raw()

    @property
    def has_segmentation(self) -> bool:
        """Whether there is a segmentation, valid or not; null counts as none."""
        return bytes(self.segmentation) not in (b"", b"null")

    def shape(self) -> list[list[float]] | Rle | None:
        """The decoded segmentation: polygons (x, y, ...) in pixels, a run-length code, or None if absent or
        null.

        Raises ``AnnotationError`` if it is something else.
        """
        if not self.has_segmentation:
            return None
        try:
            return _SHAPE.decode(self.segmentation)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise AnnotationError(
                "a segmentation cannot be read",
                where=f"annotation {self.id}",
                found=error,
                expected="a list of polygons [[x, y, x, y, ...], ...], or {size: [height, width], counts}",
                remedy=CHECK_REMEDY,
            ) from None


_SHAPE: msgspec.json.Decoder[list[list[float]] | Rle] = msgspec.json.Decoder(list[list[float]] | Rle)


@dataclass(frozen=True)
class AnnotationFile:
    """An annotation file with valid references; ``categories`` are in ascending id, so the position is the
    label."""

    path: Path
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
    info: dict[str, Any]

    @cached_property
    def category_ids(self) -> NDArray[np.int64]:
        """Category ids (C,), int64, ascending; the label of a category is its position."""
        return np.array([category.id for category in self.categories], dtype=np.int64)

    def annotations_by_image(self) -> dict[int, list[Annotation]]:
        """The annotations of every image in file order; an image without any has an empty list."""
        groups: dict[int, list[Annotation]] = {image.id: [] for image in self.images}
        for annotation in self.annotations:
            groups[annotation.image_id].append(annotation)
        return groups


class ImageId(Struct, gc=False):
    """An image record with only the id."""

    id: Id


class Reference(Struct, gc=False):
    """An annotation record with only its references."""

    image_id: Id
    category_id: Id


class References(Struct, gc=False):
    """The parts of a file that counting needs, which take a tenth of the time and memory."""

    images: list[ImageId]
    annotations: list[Reference]
    categories: list[Category]


class _Content(Struct, gc=False):
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
    info: Any = None


def read_annotations(path: Path | str) -> AnnotationFile:
    """Read an LVIS v0.5, LVIS v1 or COCO annotation file.

    Raises ``AnnotationError`` with the byte position or JSON path for malformed content, for repeated ids of
    images or categories and for annotations of unknown ones; ``FileError`` if the file cannot be read.
    ``check_annotations`` checks the geometry.
    """
    path = Path(path)
    content = decode_file(path, _Content)
    content.categories.sort(key=lambda category: category.id)
    if not content.categories:
        raise AnnotationError("the list of categories is empty", where=path, expected="at least one category")
    category_ids = [category.id for category in content.categories]
    image_ids = sorted(image.id for image in content.images)
    for kind, ids in (("category", category_ids), ("image", image_ids)):
        repeated = next((left for left, right in pairwise(ids) if left == right), None)
        if repeated is not None:
            raise AnnotationError(
                f"{kind} id {repeated} occurs twice", where=path, expected="unique ids", remedy=CHECK_REMEDY
            )
    known_images, known_categories = set(image_ids), set(category_ids)
    for annotation in content.annotations:
        for kind, id_, known in (
            ("image", annotation.image_id, known_images),
            ("category", annotation.category_id, known_categories),
        ):
            if id_ not in known:
                raise AnnotationError(
                    f"an annotation refers to an unknown {kind}",
                    where=f"{path}, annotation {annotation.id}",
                    found=f"{kind}_id {id_}",
                    expected=f"an id of the file's {len(known)} {kind} records",
                    remedy=CHECK_REMEDY,
                )
    info = content.info if isinstance(content.info, dict) else {}
    return AnnotationFile(path, content.images, content.annotations, content.categories, info)


def map_file(path: Path | str) -> mmap.mmap:
    """The file's bytes, memory-mapped; ``FileError``, or ``AnnotationError`` if it is empty or a pipe."""
    if Path(path).exists() and not Path(path).is_file():
        raise AnnotationError(
            "not a file", where=path, found="a folder, a pipe or a device", expected="a file on a disk"
        )
    try:
        with Path(path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise AnnotationError(
            "the file is empty", where=path, remedy="download or generate it again"
        ) from None
    except OSError as error:
        raise file_error("read", Path(path), error) from error


def decode_file(path: Path | str, type_: type[T]) -> T:
    """Decode a JSON file into a msgspec type; other fields are skipped.

    Raises ``AnnotationError`` with the byte position (malformed) or JSON path (wrong type, missing field), or
    with the actual format of a file that is not JSON.
    """
    data = map_file(path)
    start = len(BYTE_ORDER_MARK) if data[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK else 0
    text = memoryview(data)[start:]
    try:
        return msgspec.json.decode(text, type=type_)
    except msgspec.ValidationError as error:
        expected, _, place = str(error).partition(" - at ")
        if not place and (other := _other_content(text)) is not None:
            raise AnnotationError(
                "not an annotation file",
                where=path,
                found=other[0],
                expected="the lists images, annotations and categories, as LVIS and COCO have them",
                remedy=other[1],
            ) from None
        raise AnnotationError(
            "a record is invalid",
            where=f"{path}, {place.strip('`') or 'top level'}",
            expected=expected,
            remedy=CHECK_REMEDY,
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(path, data, error) from None


def _other_content(text: memoryview) -> tuple[str, str] | None:
    """What a valid JSON file without the lists of an annotation file contains, and the remedy; None if it has
    them."""
    try:
        keys = sorted(msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
    except msgspec.ValidationError:
        is_list = text[:HEAD].tobytes().lstrip().startswith(b"[")
        return (
            ("a list, such as results are", "give the ground truth that the results belong to")
            if is_list
            else ("a single value", "give an annotation file")
        )
    missing = sorted({"images", "annotations", "categories"}.difference(keys))
    if not missing:
        return None
    remedy = "give a file with ground truth"
    if missing == ["annotations"]:
        remedy += "; lists of images (image_info, test splits) have none"
    return f"no {' and no '.join(missing)}, but {', '.join(keys)[:200] or 'nothing'}", remedy


def _malformed(path: Path | str, data: mmap.mmap, error: Exception) -> AnnotationError:
    """The error for a file that is not JSON, with its actual format if it is recognised."""
    foreign = foreign_format(data[:HEAD])
    expected = "a complete JSON file in LVIS or COCO format"
    if foreign is not None:
        return AnnotationError(
            "not a JSON file", where=path, found=foreign.name, expected=expected, remedy=foreign.remedy
        )
    truncated = "truncated" in str(error)
    found: object = error
    remedy = "download or generate the file again"
    if (place := _first_foreign_byte(data)) is not None:
        found = f"byte 0x{data[place]:02x} at position {place}, which is no UTF-8"
        remedy = "if the text is Latin-1, convert it: iconv -f LATIN1 -t UTF-8 FILE > NEW; else " + remedy
    return AnnotationError(
        "the file ends in the middle of a record" if truncated else "not valid JSON",
        where=f"{path}, byte {len(data)} (end of file)" if truncated else path,
        found=found,
        expected=expected,
        remedy=remedy,
    )


def require_text(path: Path | str) -> None:
    """Raise ``AnnotationError`` for a file that is not valid UTF-8; readers do not check fields that they
    skip."""
    data = map_file(path)
    if foreign_format(data[:HEAD]) is not None or _first_foreign_byte(data) is not None:
        raise _malformed(path, data, UnicodeError("not UTF-8"))


def _first_foreign_byte(data: mmap.mmap) -> int | None:
    """Position of the first byte that is not valid UTF-8; None if there is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), 1 << 20):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(data[start : start + (1 << 20)])
        except UnicodeDecodeError as error:
            return start - pending + error.start
    return None


def _inside(image_id: int, name: str) -> str:
    """``name`` if it stays inside the image folder: a downloaded file must not select other files on this
    machine."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name or re.match(r"^[A-Za-z]:", name):
        raise AnnotationError(
            "a file name leads out of the image folder",
            where=f"image {image_id}",
            found=repr(name),
            expected="a path relative to the image folder, without '..'",
            remedy="correct the annotation file; do not use one that you do not trust",
        )
    return name


def _url_parts(image: Image) -> list[str]:
    """The path of ``coco_url``, part by part."""
    try:
        return urlsplit(image.coco_url or "").path.split("/")
    except ValueError as error:
        raise AnnotationError(
            "an image's address cannot be read",
            where=f"image {image.id}",
            found=f"{image.coco_url!r} ({error})",
            expected="http://images.cocodataset.org/FOLDER/FILE",
            remedy=CHECK_REMEDY,
        ) from None


def resolve_image(image: Image, folder: Path | str) -> Path:
    """The file of an image below ``folder``.

    Tries in this order: ``file_name``; the same without LVIS v0.5's ``COCO_val2014_`` prefix (the 2017
    release dropped it); the last two parts of ``coco_url`` (``train2017/...``, ``val2017/...``: LVIS v1's
    validation images come from both); only its last part, for a folder that is one of those. Raises
    ``AnnotationError`` with all paths tried, or for a name that leads out of the folder.
    """
    first = image.relative_path
    names = [first]
    path = PurePosixPath(first)
    names.append(str(path.with_name(_YEAR_PREFIX.sub("", path.name))))
    if image.coco_url:
        parts = _url_parts(image)
        names += [_inside(image.id, "/".join(parts[-2:])), _inside(image.id, parts[-1])]
    candidates = [Path(folder) / name for name in dict.fromkeys(names)]
    for candidate in candidates:
        try:
            if candidate.is_file():
                return candidate
        except OSError:  # a name that the system refuses, such as a very long one
            continue
    raise AnnotationError(
        "an image file is missing",
        where=f"image {image.id}",
        found="no such file: " + ", ".join(map(str, candidates)),
        expected="one of them",
        remedy="correct the image folder of the dataset, or download the images",
    )


def annotation_rle(annotation: Annotation, height: int, width: int) -> dict[str, Any]:
    """The mask as pycocotools' compressed run-length code ``{"size": [height, width], "counts": bytes}``.

    The mask is the union of all polygons. Raises ``AnnotationError`` for a segmentation that is absent or
    that pycocotools would misread (its C code does not check its input).
    """
    shape = annotation.shape()
    if shape is None:
        defects = ["no segmentation"]
    elif height * width > MOST_PIXELS:
        defects = [f"an image of {width} x {height} pixels, more than {MOST_PIXELS}"]
    else:
        defects = shape_defects(shape, height, width, slack=max(height, width))
    if defects:
        raise AnnotationError(
            "a segmentation cannot be turned into a mask",
            where=f"annotation {annotation.id}",
            found="; ".join(defects),
            remedy=CHECK_REMEDY,
        )
    if isinstance(shape, Rle):
        rle = {"size": [height, width], "counts": run_lengths(shape)}
        return dict(mask_utils.frPyObjects(rle, height, width))
    return dict(mask_utils.merge(mask_utils.frPyObjects(shape, height, width)))


def shape_defects(shape: list[list[float]] | Rle, height: int, width: int, slack: float) -> list[str]:
    """Defects of a segmentation as text; coordinates may be outside the image by ``slack`` pixels."""
    if isinstance(shape, Rle):
        if shape.size != (height, width):
            return [f"run-length code of size {list(shape.size)} in an image of size {[height, width]}"]
        total = sum(run_lengths(shape))
        return (
            []
            if total == height * width
            else [f"run lengths add up to {total} instead of {height * width} pixels"]
        )
    if not shape:
        return ["no polygon"]
    defects = []
    for number, polygon in enumerate(shape):
        if len(polygon) < 6 or len(polygon) % 2:
            defects.append(f"polygon {number} has {len(polygon)} numbers instead of an even number from 6")
            continue
        x, y = polygon[::2], polygon[1::2]
        if min(x) < -slack or min(y) < -slack or max(x) > width + slack or max(y) > height + slack:
            defects.append(
                f"polygon {number} spans x {min(x):g} to {max(x):g}, y {min(y):g} to {max(y):g} "
                f"in an image of {width} x {height}"
            )
        elif len(x) * max(max(x) - min(x), max(y) - min(y)) > LONGEST_OUTLINE:  # at most so long
            length = float(np.sum(abs(np.diff(x, append=x[0])) + abs(np.diff(y, append=y[0]))))
            if length > LONGEST_OUTLINE:
                defects.append(f"polygon {number} is {length:.0f} pixels long, more than {LONGEST_OUTLINE}")
    return defects


def run_lengths(rle: Rle) -> list[int]:
    """Run lengths of a code; ``[-1]``, which is never the sum of an image's pixels, of text that is none."""
    if isinstance(rle.counts, list):
        return rle.counts
    characters = np.frombuffer(rle.counts.encode(), np.uint8)
    runs, _, (bad,) = decode_run_lengths(characters, np.array([len(characters)]))
    return [-1] if bad else runs.tolist()


def frequency_letter(image_count: int) -> Literal["r", "c", "f"]:
    """LVIS group by training images: rare up to 10, common up to 100, frequent above.

    A category without any training image counts as rare.
    """
    return "r" if image_count <= 10 else "c" if image_count <= 100 else "f"
