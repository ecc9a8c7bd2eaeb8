"""Compressed run lengths, decoded and encoded in bulk, equal those of pycocotools to the byte."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from benchmark.annotations.run_lengths import decode_run_lengths, encode_run_lengths


def bitmaps() -> list[np.ndarray]:
    """Empty, full, noisy and solid bitmaps, of one pixel or many, and one with a run of a million pixels."""
    generator = np.random.Generator(np.random.PCG64(0))
    made = [np.zeros((3, 5)), np.ones((3, 5)), np.ones((1, 1)), np.zeros((1, 1)), np.eye(40)]
    for share in (0.01, 0.5, 0.99):
        made += [generator.random((height, width)) < share for height, width in ((1, 90), (90, 1), (37, 61))]
    wide = np.zeros((4000, 3000))
    wide[-1, -1] = 1
    return [bitmap.astype(np.uint8) for bitmap in [*made, wide]]


def test_runs_of_many_codes_at_once() -> None:
    codes = [coco_mask.encode(np.asfortranarray(bitmap))["counts"] for bitmap in bitmaps()]
    characters = np.frombuffer(b"".join(codes), np.uint8)
    runs, numbers, bad = decode_run_lengths(characters, np.array([len(code) for code in codes]))
    assert not bad.any()
    for bitmap, own in zip(bitmaps(), np.split(runs, numbers.cumsum()[:-1]), strict=True):
        values = np.arange(len(own)) % 2
        assert np.array_equal(np.repeat(values, own), bitmap.ravel(order="F"))
    assert encode_run_lengths(runs, numbers) == codes


@pytest.mark.parametrize("code", [b"", b"P", b"\x00", b"z0", b"5O", b"PPPPPPPPP0"])
def test_codes_that_cannot_be_read_are_told_from_their_neighbours(code: bytes) -> None:
    good = coco_mask.encode(np.asfortranarray(np.eye(5, dtype=np.uint8)))["counts"]
    codes = [good, code, good]
    characters = np.frombuffer(b"".join(codes), np.uint8)
    runs, numbers, bad = decode_run_lengths(characters, np.array([len(item) for item in codes]))
    assert bad.tolist() == [False, True, False]
    for own in (runs[: numbers[0]], runs[len(runs) - numbers[2] :]):
        assert encode_run_lengths(own, np.array([len(own)])) == [good]


def test_nothing_is_nothing() -> None:
    runs, numbers, bad = decode_run_lengths(np.zeros(0, np.uint8), np.zeros(0, np.int64))
    assert len(runs) == len(numbers) == len(bad) == 0
    assert encode_run_lengths(runs, numbers) == []
