"""Image files: found before anything expensive starts, and decoded."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from benchmark.annotations import Image, resolve_image
from benchmark.errors import BenchmarkError


class ImageError(BenchmarkError):
    """An image file is missing or cannot be decoded, or images have nothing to train on."""


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


def decode(path: Path, image_id: int, size: tuple[int, int]) -> Tensor:
    """Pixels (3, height, width) uint8, RGB, of an image file.

    A photograph is turned as its EXIF orientation says: detectron2 and OpenCV do so too, and annotators saw
    it so.

    Raises:
        ImageError: it cannot be decoded, is an animation, or does not have ``size``, height and width.
    """
    try:
        pixels = decode_image(str(path), mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except (RuntimeError, OSError) as error:
        raise ImageError(
            f"cannot decode the file of image {image_id}",
            where=path,
            found=str(error).splitlines()[0],
            remedy="fetch the file again if it is damaged; convert other formats to JPEG or PNG",
        ) from None
    if pixels.ndim != 3:
        raise ImageError(
            f"the file of image {image_id} is an animation",
            where=path,
            found=f"{len(pixels)} pictures",
            expected="one",
            remedy="save the picture that is annotated as JPEG or PNG",
        )
    if tuple(pixels.shape[-2:]) != size:
        raise ImageError(
            f"image {image_id} does not have the size of its annotation",
            where=path,
            found=f"{pixels.shape[-2]} x {pixels.shape[-1]} (height x width)",
            expected=f"{size[0]} x {size[1]}",
            remedy="check that the images belong to this annotation file",
        )
    return pixels


def decode_stuff(path: Path, image_id: int, size: tuple[int, int]) -> Tensor:
    """Stuff categories (1, height, width) uint8 of an image.

    Raises:
        ImageError: the file cannot be decoded, or does not have ``size``, height and width.
    """
    try:
        categories = decode_image(str(path), mode=ImageReadMode.GRAY)
    except (RuntimeError, OSError) as error:
        raise ImageError(
            f"cannot decode the stuff map of image {image_id}",
            where=path,
            found=str(error).splitlines()[0],
            remedy="unpack COCO's stuffthingmaps there, or take a detector with semantic_branch: false",
        ) from None
    if tuple(categories.shape[-2:]) != size:
        raise ImageError(
            f"the stuff map of image {image_id} does not have the image's size",
            where=path,
            found=f"{categories.shape[-2]} x {categories.shape[-1]} (height x width)",
            expected=f"{size[0]} x {size[1]}",
        )
    return categories
