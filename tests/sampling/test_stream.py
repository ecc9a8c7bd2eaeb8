"""The order of images depends only on seed and position, not on processes or interruptions."""

from typing import Any

import numpy as np
import pytest
from golden_cases import golden_cases
from hypothesis import given
from hypothesis import strategies as st

from benchmark.sampling import (
    AlikeStream,
    DrawnStream,
    ImageStream,
    PairedBatches,
    StreamBatches,
    round_stochastically,
)


@pytest.mark.parametrize("case", golden_cases("balms", "stochastic_rounding"))
def test_rounding_equals_the_original(case: dict[str, Any]) -> None:
    factors = np.array(case["inputs"]["repeat_factors"], np.float32)
    uniform = np.array(case["inputs"]["uniform_random"])
    assert round_stochastically(factors, uniform).tolist() == case["expected"]["epoch_indices"]


def test_uniform_epochs_are_different_permutations() -> None:
    stream = ImageStream(np.ones(50), seed=1)
    first, second = ([stream[epoch * 50 + i] for i in range(50)] for epoch in range(2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_repeated_images_come_as_often_as_their_factor_says() -> None:
    factors = np.array([1.0, 1.5, 4.0])
    stream = ImageStream(factors, seed=0)
    counts = np.bincount([stream[position] for position in range(20000)])
    assert counts / counts[0] == pytest.approx(factors, rel=0.03)


def test_drawn_images_come_as_often_as_their_factor_says() -> None:
    """Also with factors of thousands, as with 1 / f; they do not lengthen the epoch."""
    factors = np.array([1000.0, 1500.0, 50000.0, 0.0], np.float32)
    stream = DrawnStream(factors, seed=0)
    assert stream.epoch_length == 4
    counts = np.bincount([stream[position] for position in range(40000)], minlength=4)
    assert counts / len(factors) / 10000 == pytest.approx(factors / factors.sum(), abs=0.005)
    assert counts[3] == 0


@pytest.mark.parametrize("kind", [ImageStream, DrawnStream])
@given(start=st.integers(0, 300), seed=st.integers(0, 100))
def test_any_position_can_be_asked_for_first(kind: type[ImageStream], start: int, seed: int) -> None:
    factors = np.linspace(1, 3, 17)
    whole = kind(factors, seed)
    expected = [whole[position] for position in range(start + 20)][start:]
    resumed = kind(factors, seed)
    assert [resumed[position] for position in range(start, start + 20)] == expected
    assert resumed[0] == whole[0]  # also backwards


@given(world_size=st.sampled_from([1, 2, 4]), first=st.integers(0, 10))
def test_processes_share_the_batches_of_one(world_size: int, first: int) -> None:
    stream = ImageStream(np.ones(31), seed=3)
    alone = list(StreamBatches(stream, 8, first, first + 5))
    shares = [
        list(StreamBatches(stream, 8, first, first + 5, rank, world_size)) for rank in range(world_size)
    ]
    for batch, *parts in zip(alone, *shares, strict=True):
        assert [item for part in parts for item in part] == batch


@given(size=st.sampled_from([1, 2, 4]), start=st.integers(0, 60), seed=st.integers(0, 100))
def test_images_of_a_shape_come_together_and_in_their_order(size: int, start: int, seed: int) -> None:
    stream, wide = ImageStream(np.linspace(1, 3, 17), seed), np.arange(17) % 3 == 0
    alike = AlikeStream(stream, wide, size)
    given_out = [alike[position] for position in range(100 * size)]
    for run in range(0, len(given_out), size):
        assert len({bool(wide[index]) for index in given_out[run : run + size]}) == 1
    for shape in (True, False):
        mine = [index for index in given_out if wide[index] == shape]
        theirs = [index for index in (stream[p] for p in range(110 * size)) if wide[index] == shape]
        assert mine == theirs[: len(mine)]
    resumed = AlikeStream(ImageStream(np.linspace(1, 3, 17), seed), wide, size)
    assert [resumed[position] for position in range(start, start + 5)] == (given_out * 2)[start : start + 5]


def test_paired_batches_share_no_position() -> None:
    first, second = (ImageStream(np.ones(31), seed) for seed in (3, 4))
    pairs = list(PairedBatches(StreamBatches(first, 4, 2, 5), StreamBatches(second, 4, 2, 5)))
    assert [batch[:4] for batch in pairs] == list(StreamBatches(first, 4, 2, 5))
    for batch, other in zip(pairs, StreamBatches(second, 4, 2, 5), strict=True):
        assert [index for index, _ in batch[4:]] == [index for index, _ in other]
    positions = [position for batch in pairs for _, position in batch]
    assert len(set(positions)) == len(positions)
