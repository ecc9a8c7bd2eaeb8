"""Finding and decoding image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from benchmark.annotations import Image, resolve_image
from benchmark.errors import BenchmarkError


class ImageError(BenchmarkError):
    """An image file is missing or cannot be decoded, or images have nothing to train on."""


def find_images(images: Sequence[Image], folder: Path) -> list[Path]:
    """The file of every image, checked once, before anything expensive starts.

    Raises:
        ImageError: files are missing; the message names the first and gives their number.
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


def decode(path: Path, image_id: int, size: tuple[int, int]) -> Tensor:
    """Pixels (3, height, width) uint8, RGB, of an image file.

    An EXIF orientation is applied, as in detectron2 and OpenCV; annotators saw the rotated image.

    Raises:
        ImageError: it cannot be decoded, is an animation, or does not have ``size``, height and width.
    """
    remedy = "fetch the file again if it is damaged; convert other formats to JPEG or PNG"
    pixels = _decoded(
        path,
        f"the file of image {image_id}",
        remedy,
        mode=ImageReadMode.RGB,
        apply_exif_orientation=True,
    )
    if pixels.ndim != 3:
        raise ImageError(
            f"the file of image {image_id} is an animation",
            where=path,
            found=f"{len(pixels)} pictures",
            expected="one",
            remedy="save the picture that is annotated as JPEG or PNG",
        )
    if tuple(pixels.shape[-2:]) != size:
        raise _of_other_size(
            f"image {image_id} does not have the size of its annotation",
            path,
            pixels,
            size,
            "check that the images belong to this annotation file",
        )
    return pixels


def decode_stuff(path: Path, image_id: int, size: tuple[int, int]) -> Tensor:
    """Stuff categories (1, height, width) uint8 of an image.

    Raises:
        ImageError: the file cannot be decoded, or does not have ``size``, height and width.
    """
    what = f"the stuff map of image {image_id}"
    remedy = "unpack COCO's stuffthingmaps there, or take a detector with semantic_branch: false"
    categories = _decoded(path, what, remedy, mode=ImageReadMode.GRAY)
    if tuple(categories.shape[-2:]) != size:
        raise _of_other_size(f"{what} does not have the image's size", path, categories, size)
    return categories


def _decoded(path: Path, what: str, remedy: str, **options: Any) -> Tensor:
    try:
        return decode_image(str(path), **options)
    except (RuntimeError, OSError) as error:
        raise ImageError(
            f"cannot decode {what}", where=path, found=str(error).splitlines()[0], remedy=remedy
        ) from None


def _of_other_size(
    what: str, path: Path, pixels: Tensor, size: tuple[int, int], remedy: str | None = None
) -> ImageError:
    return ImageError(
        what,
        where=path,
        found=f"{pixels.shape[-2]} x {pixels.shape[-1]} (height x width)",
        expected=f"{size[0]} x {size[1]}",
        remedy=remedy,
    )
