"""What the kinds of sampler make of the same images."""

from typing import Any

import pytest

from benchmark.recipes.models import Sampler
from benchmark.training.order import repeat_factors


class Images:
    """Ten images: one has category 1 too, twice."""

    label_of = {1: 0, 5: 1}  # noqa: RUF012

    def __len__(self) -> int:
        return 10

    def labels(self, index: int) -> list[int]:
        return [0, 1, 1] if index == 9 else [0]


@pytest.mark.parametrize(
    ("kind", "last"), [("uniform", 1), ("repeat_factor", 1.5**0.5), ("repeat_factor_ceiling", 2)]
)
def test_the_image_of_a_rare_category(kind: Any, last: float) -> None:
    images: Any = Images()
    factors = repeat_factors(Sampler(kind=kind, threshold=0.15), images)
    assert factors.dtype == "float32"
    assert factors.tolist() == pytest.approx([1] * 9 + [last])
