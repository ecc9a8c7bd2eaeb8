"""Checks of image files: existing, complete, in a readable format, and of the size in their record."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.annotations.problems import Findings, Problem
from benchmark.annotations.reading import AnnotationError, Image, resolve_image
from benchmark.formats import HEAD, foreign_format

if TYPE_CHECKING:
    from PIL import Image as Pictures

READABLE = ("JPEG", "MPO", "PNG", "WEBP", "GIF")
"""Formats that can be decoded; MPO is a JPEG to which cameras add pictures."""

CHUNK = 200
"""Number of images that a process checks before it reports."""

_AGAIN = "fetch the file again, and look whether others of its transfer are damaged, too"
_CONVERT = "save it as JPEG or PNG"
_ORIENTATION, _SIDES_CHANGE = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values that swap width and height
_BIT_DEPTH = 24  # byte of a PNG file


def check_images(
    images: Sequence[Image],
    folder: Path | str,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
    """The problems of the files of ``images`` in ``folder``: the first ones of each kind, with their total.

    Opens and decodes every file, JPEG at an eighth of its size, so that damage anywhere in it is found. An
    EXIF orientation is applied before sizes are compared, as in detectron2 and OpenCV.

    Args:
        images: image records.
        folder: image folder.
        workers: processes; 1 for this process only.
        progress: called with the number of checked files and their total.
    """
    findings = Findings(folder)
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    done = 0
    for chunk, problems in _checked_chunks(chunks, Path(folder), workers):
        findings.extend(problems)
        done += len(chunk)
        if progress is not None:
            progress(done, len(images))
    return findings.problems()


def _checked_chunks(
    chunks: Sequence[Sequence[Image]], folder: Path, workers: int
) -> Iterator[tuple[Sequence[Image], list[Problem]]]:
    """Each chunk with its problems, in order."""
    look = partial(_check_files, folder)
    if workers <= 1 or len(chunks) <= 1:
        yield from ((chunk, look(chunk)) for chunk in chunks)
        return
    # slow to import with Pillow, and most commands do not need them
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # a forked process with threads may hang
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=get_context("spawn")) as pool:
        yield from zip(chunks, pool.map(look, chunks), strict=True)


def _check_files(folder: Path, images: Sequence[Image]) -> list[Problem]:
    return [problem for image in images for problem in _problems(image, folder)]


def _problems(image: Image, folder: Path) -> Iterator[Problem]:
    try:
        name = image.relative_path
    except AnnotationError:
        return  # a problem of the record
    problem = partial(Problem, record="image", id=image.id, field=_field(image))
    try:
        path = resolve_image(image, folder)
    except AnnotationError:
        yield problem(
            "missing image file",
            found=f"no file {name}",
            expected="an image file",
            remedy="download the images, or give the folder that the names are relative to",
        )
        return
    try:
        yield from _file_problems(image, path)
    except OSError as error:
        yield problem("image file that cannot be read", found=f"{name}: {error}", expected="a readable file")


def _field(image: Image) -> str:
    """The field that names the file."""
    return "file_name" if image.file_name else "coco_url"


def _file_problems(image: Image, path: Path) -> Iterator[Problem]:
    from PIL import Image as Pictures
    from PIL import UnidentifiedImageError

    problem = partial(Problem, record="image", id=image.id, field=_field(image))
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        yield problem("empty image file", found=f"{path.name}: 0 bytes", expected="an image", remedy=_AGAIN)
        return
    foreign = foreign_format(head)
    if foreign is not None and not foreign.name.endswith("image"):
        yield problem(
            "file that is no image",
            found=f"{path.name}: {foreign.name}",
            expected="an image",
            remedy=foreign.remedy,
        )
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, and about sizes, which are compared
        try:
            with Pictures.open(path) as picture:
                yield from _picture_problems(image, path, picture, head)
        except UnidentifiedImageError:
            yield problem(
                "file that is no image",
                found=f"{path.name}: begins with {head[:8]!r}",
                expected="JPEG or PNG",
                remedy=_AGAIN,
            )
        except (OSError, SyntaxError, ValueError, EOFError, Pictures.DecompressionBombError) as error:
            yield problem(
                "damaged image file",
                found=f"{path.name}: {error}",
                expected="a complete image",
                remedy=_AGAIN,
            )


def _picture_problems(image: Image, path: Path, picture: "Pictures.Image", head: bytes) -> Iterator[Problem]:
    problem = partial(Problem, record="image", id=image.id, field=_field(image))
    if picture.format not in READABLE:
        yield problem(
            "image of another format",
            found=f"{path.name}: {picture.format}",
            expected="JPEG or PNG",
            remedy=_CONVERT,
        )
        return
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        yield problem("animation", found=f"{path.name}: several pictures", expected="one", remedy=_CONVERT)
        return
    if picture.format == "PNG" and head[_BIT_DEPTH] == 16:
        yield problem(
            "image of 16 bits",
            found=f"{path.name}: 16 bits a colour",
            expected="8 bits, which all decoders read alike",
            remedy=_CONVERT,
        )
        return
    if size := _size_problem(image, path, picture):
        yield size
        if size.severity == "error":
            return
    picture.draft(None, (max(1, picture.width // 8), max(1, picture.height // 8)))
    picture.load()


def _size_problem(image: Image, path: Path, picture: "Pictures.Image") -> Problem | None:
    """The problem with the size or orientation of an image, if there is one."""
    orientation = picture.getexif().get(_ORIENTATION, 1)
    width, height = picture.size
    shown = (height, width) if orientation in _SIDES_CHANGE else (width, height)
    recorded = (image.width, image.height)
    turned = f", turned by EXIF orientation {orientation}" if orientation in range(2, 9) else ""
    problem = partial(Problem, record="image", id=image.id, field="width, height")
    found = f"{path.name}: {width} x {height}{turned}"
    if shown != recorded:
        return problem(
            "image of another size than its record",
            found=found,
            expected=f"{image.width} x {image.height} (width x height)",
            remedy="the boxes were drawn on the picture as it is stored: store it without the orientation, "
            "which detectron2, OpenCV and this project apply"
            if turned and (width, height) == recorded
            else "take the images that the annotations were drawn on, at their original size",
        )
    if turned and (orientation not in _SIDES_CHANGE or width == height):
        return problem(
            "EXIF orientation that the size does not confirm",
            found=found,
            expected="boxes drawn on the picture as viewers show it: it is turned when it is read, as in "
            "detectron2 and OpenCV",
            severity="warning",
        )
    return None


def usable_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
