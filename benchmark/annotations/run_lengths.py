"""COCO's compressed run-length codes, vectorised over many masks.

A bitmap is represented by the lengths of its runs down the columns, background first. The code of a number
has 5 bits per character from ``"0"`` on, the lowest bits first; the sixth bit is set if the number continues,
and the highest bit is the sign. From the fourth number on, a number is the difference from the one two
before.
"""

import numpy as np
from numpy.typing import NDArray

_DIGITS = 7  # of 5 bits: more than any run of COCO's 32 bits needs

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
    highest = (characters[ends] & 0x1F).astype(np.int8)
    values = ((highest ^ 16) - np.int8(16)).astype(np.int64)  # bit 4 is the sign
    long, digits, lower = _lower_digits(characters, np.flatnonzero(goes_on))
    bad[np.searchsorted(stops, ends[long[digits >= _DIGITS]], side="right")] = True
    values[long] = (values[long] << 5 * np.minimum(digits, _DIGITS)) + lower
    # from differences to runs: a sum over every second number of all codes, minus its value before the code
    numbers = np.diff(np.searchsorted(ends, stops), prepend=0)
    heads = (np.cumsum(numbers) - numbers)[filled]
    runs, first = np.empty_like(values), values[heads]
    values[heads] = 0  # the first number of a code is in no difference
    for lane in range(2):
        sums = values[lane::2].cumsum()
        begins = (heads + 1 - lane) // 2
        sums -= np.repeat(np.append(0, sums)[begins], np.diff(begins, append=len(sums)))
        runs[lane::2] = sums
    runs[heads] = first
    bad[filled] |= np.minimum.reduceat(runs, heads) < 0
    return runs, numbers, bad


def _lower_digits(characters: NDArray[np.uint8], places: Integers) -> tuple[Integers, Integers, Integers]:
    """The numbers of more than one digit: which of all numbers each is, how many digits it has before the
    highest, and the value of these; ``places`` ascend and are those of these digits."""
    owners = places - np.arange(len(places))
    begins = np.flatnonzero(np.diff(owners, prepend=-1))
    digits = np.diff(begins, append=len(places))
    digit = np.arange(len(places)) - np.repeat(begins, digits)
    values = (characters[places] & 0x1F).astype(np.int64) << (5 * np.minimum(digit, _DIGITS))
    return owners[begins], digits, np.add.reduceat(values, begins)


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
