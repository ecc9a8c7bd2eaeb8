"""Image files that would stop a training, or would be read displaced, are reported before it."""

import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures

from benchmark.annotations import Problem, check_images
from benchmark.annotations.reading import Image

WIDTH, HEIGHT = 64, 48
ORIENTATION = 0x0112


def picture() -> Pictures.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Pictures.fromarray(pixels)


def check(folder: Path, *names: str, **options: object) -> list[Problem]:
    images = [Image(number, WIDTH, HEIGHT, name) for number, name in enumerate(names, start=1)]
    return check_images(images, folder, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "LA", "RGBA"])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_pictures_of_every_usual_kind_are_sound(mode: str, ending: str, tmp_path: Path) -> None:
    try:
        picture().convert(mode).save(tmp_path / f"a.{ending}")
    except OSError:
        pytest.skip(f"{ending} has no {mode}")
    assert check(tmp_path, f"a.{ending}") == []


def png_of_16_bits() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = WIDTH.to_bytes(4, "big") + HEIGHT.to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    rows = zlib.compress(bytes(HEIGHT * (1 + 6 * WIDTH)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def encoded(format_: str, **options: object) -> bytes:
    stream = BytesIO()
    picture().save(stream, format_, **options)
    return stream.getvalue()


def with_broken_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + b"\xff\xd9" * 20 + content[middle + 40 :]


def test_unusable_files_are_named_by_what_they_are(tmp_path: Path) -> None:
    two = {"save_all": True, "append_images": [Pictures.new("RGB", (WIDTH, HEIGHT))]}
    files = {
        "empty.jpg": (b"", "empty image file"),
        "page.jpg": (b"<!DOCTYPE html><html>sign in</html>", "file that is no image"),
        "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "file that is no image"),
        "zeros.jpg": (b"\0" * 5000, "file that is no image"),
        "noise.jpg": (b"not an image", "file that is no image"),
        "half.jpg": (encoded("JPEG")[:-900], "damaged image file"),
        "tail.jpg": (encoded("JPEG")[:-40], "damaged image file"),
        "half.png": (encoded("PNG")[:-900], "damaged image file"),
        "broken.png": (with_broken_middle(encoded("PNG")), "damaged image file"),
        "head.jpg": (encoded("JPEG")[:100], "damaged image file"),
        "other.bmp": (encoded("BMP"), "image of another format"),
        "moving.gif": (encoded("GIF", **two), "animation"),
        "deep.png": (png_of_16_bits(), "image of 16 bits"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    problems = check(tmp_path, *files, "absent.jpg")
    assert [(problem.id, problem.what) for problem in problems] == [
        *((number, what) for number, (_, what) in enumerate(files.values(), start=1)),
        (len(files) + 1, "missing image file"),
    ]
    assert {problem.severity for problem in problems} == {"error"}
    for problem, name in zip(problems, [*files, "absent.jpg"], strict=True):
        assert name in problem.found
        assert problem.remedy


def test_the_size_is_that_of_the_picture_as_it_is_shown(tmp_path: Path) -> None:
    """The EXIF orientation is applied, as in OpenCV and detectron2.

    If the size does not show whether the annotators saw the image rotated, the file is reported.
    """
    exif = Pictures.Exif()
    stored = {"upright": picture(), "lying": picture().transpose(Pictures.Transpose.ROTATE_90)}
    expected = {
        ("upright", 1): None,
        ("upright", 3): "warning",
        ("upright", 6): "error",
        ("lying", 1): "error",
        ("lying", 6): None,
        ("lying", 8): None,
        ("lying", 3): "error",
    }
    for (form, orientation), severity in expected.items():
        exif[ORIENTATION] = orientation
        stored[form].save(tmp_path / "a.jpg", exif=exif)
        assert [problem.severity for problem in check(tmp_path, "a.jpg")] == ([severity] if severity else [])
    exif[ORIENTATION] = 6
    picture().save(tmp_path / "a.jpg", exif=exif)
    (problem,) = check(tmp_path, "a.jpg")
    assert "64 x 48, turned by EXIF orientation 6" in problem.found
    assert "as it is stored" in str(problem.remedy)


def test_processes_change_nothing_and_progress_reaches_the_end(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(450)]
    for name in names[::2]:
        Pictures.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name)
    reports: list[tuple[int, int]] = []
    alone = check(tmp_path, *names)
    shared = check(tmp_path, *names, workers=2, progress=lambda done, total: reports.append((done, total)))
    assert shared == alone
    assert alone[0].count == 225
    assert reports == [(200, 450), (400, 450), (450, 450)]


def test_unusable_names_are_left_to_the_check_of_records(tmp_path: Path) -> None:
    assert check_images([Image(1, 5, 5, "../a.jpg"), Image(2, 5, 5)], tmp_path) == []
