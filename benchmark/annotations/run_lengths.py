"""COCO's compressed run-length codes, vectorised over many masks.

A bitmap is represented by the lengths of its runs down the columns, background first. The code of a number
has 5 bits per character from ``"0"`` on, the lowest bits first; the sixth bit is set if the number continues,
and the highest bit is the sign. From the fourth number on, a number is the difference from the one two
before.
"""

import numpy as np
from numpy.typing import NDArray

_DIGITS = 7  # of 5 bits: more than any run of COCO's 32 bits needs
_LAST_DIGIT = np.array([*range(16), *range(-16, 0)])  # its highest bit is the sign

Integers = NDArray[np.int64]


def decode_run_lengths(
    characters: NDArray[np.uint8], lengths: Integers
) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """Run lengths of M codes.

    Args:
        characters: uint8, of all codes, one after the other.
        lengths: int64 (M,), characters of each.

    Returns:
        The runs of all codes, the number of runs of each code (M,), and which codes (M,) cannot be read, have
        a negative run or end in the middle of a number; the runs of these are meaningless.
    """
    filled, stops = lengths > 0, np.cumsum(lengths)
    bad = ~filled
    if not filled.any():
        return np.zeros(0, np.int64), np.zeros(len(lengths), np.int64), bad
    characters = characters - np.uint8(48)
    goes_on = (characters & 0x20) != 0
    last = stops[filled] - 1
    bad[filled] = goes_on[last]
    goes_on[last] = False  # so that no number extends into the next code
    bad[np.searchsorted(stops, np.flatnonzero(characters > 0x3F), side="right")] = True
    ends = np.flatnonzero(~goes_on)
    values = _LAST_DIGIT[characters[ends] & 0x1F]
    # the lower digits of the numbers that have some
    places = np.flatnonzero(goes_on)
    owners = places - np.arange(len(places))
    digits = np.bincount(owners, minlength=1)
    bad[np.searchsorted(stops, ends[np.flatnonzero(digits >= _DIGITS)], side="right")] = True
    long = np.flatnonzero(digits)
    values[long] <<= 5 * np.minimum(digits[long], _DIGITS)
    digit = np.arange(len(places)) - np.repeat(np.cumsum(digits[long]) - digits[long], digits[long])
    lower = (characters[places] & 0x1F).astype(np.int64) << (5 * np.minimum(digit, _DIGITS))
    values[long] += np.bincount(owners, lower, minlength=1).astype(np.int64)[long]
    # from differences to runs: two interleaved sums over all codes, minus their values before the code
    numbers = np.diff(np.searchsorted(ends, stops), prepend=0)
    heads, own = (np.cumsum(numbers) - numbers)[filled], numbers[filled]
    sums = np.append(values, np.zeros(len(values) % 2, np.int64)).reshape(-1, 2).cumsum(axis=0).ravel()
    inside = (np.arange(len(values)) - np.repeat(heads, own)) & 1
    before = np.stack([sums[heads], np.append(0, sums)[heads]], axis=1)
    runs = sums[: len(values)] - before[np.repeat(np.arange(len(heads)), own), inside]
    runs[heads] = values[heads]
    bad[filled] |= np.minimum.reduceat(runs, heads) < 0
    return runs, numbers, bad


def encode_run_lengths(runs: Integers, numbers: Integers) -> list[bytes]:
    """The codes of M bitmaps, byte for byte those of pycocotools.

    Args:
        runs: int64, run lengths of all bitmaps, one after the other.
        numbers: int64 (M,), how many each has.
    """
    heads = np.cumsum(numbers) - numbers
    place = np.arange(len(runs)) - np.repeat(heads, numbers)
    values = runs.copy()
    differs = np.flatnonzero(place > 2)
    values[differs] -= runs[differs - 2]
    characters = np.empty((len(values), _DIGITS), np.uint8)
    used = np.ones((len(values), _DIGITS), bool)
    goes_on = np.ones(len(values), bool)
    for digit in range(_DIGITS):
        used[:, digit] = goes_on
        bits = values & 0x1F
        values >>= 5
        # a number ends when only its sign is left
        goes_on &= values != np.where(bits & 0x10, -1, 0)
        characters[:, digit] = bits + 48 + 0x20 * goes_on
    stops = np.append(0, used.sum(axis=1).cumsum())[np.append(heads, len(runs))]
    content = characters[used].tobytes()
    return [content[start:stop] for start, stop in zip(stops[:-1].tolist(), stops[1:].tolist(), strict=True)]
