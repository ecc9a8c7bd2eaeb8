"""The streams of all samplers for the same images."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from benchmark.recipes.models import Sampler
from benchmark.sampling import DrawnStream, ImageStream, LabelledImages
from benchmark.training.errors import TrainingError
from benchmark.training.samplers import image_stream

HERE = __file__.rpartition("/")[0]


class Images:
    """Ten images; one of them also has category 1, twice."""

    label_of = {1: 0, 5: 1}  # noqa: RUF012

    def __len__(self) -> int:
        return 10

    def labels(self, index: int) -> list[int]:
        return [0, 1, 1] if index == 9 else [0]


def by_instances(images: LabelledImages, seed: int, power: float) -> ImageStream:
    """A sampler from a plug-in."""
    counts = images.instance_counts.astype(float) ** power
    assert images.image_counts.tolist() == [10, 1]
    return DrawnStream(np.array([counts[labels].sum() for labels in images.labels]), seed)


def no_stream(images: LabelledImages, seed: int) -> list[int]:
    return [seed]


def stream_of(**settings: Any) -> ImageStream:
    images: Any = Images()
    return image_stream(Sampler(**settings), images, 7, HERE)


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ("uniform", 1),
        ("repeat_factor", 1.5**0.5),
        ("repeat_factor_ceiling", 2),
        ("repeat_factor_plus_one", 3),
    ],
)
def test_the_image_of_a_rare_category(kind: str, last: float) -> None:
    stream = stream_of(kind=kind, threshold=0.15)
    assert stream.repeat_factors.dtype == "float32"
    assert stream.repeat_factors.tolist() == pytest.approx([1] * 9 + [last])
    assert stream.seed == 7


def test_a_plug_in_may_bring_a_sampler() -> None:
    stream = stream_of(kind=f"{__name__}:by_instances", options={"power": 2.0})
    assert isinstance(stream, DrawnStream)
    assert stream.repeat_factors.tolist() == [100.0] * 9 + [108.0]


def test_a_sampler_that_is_none_is_refused() -> None:
    with pytest.raises(TrainingError, match="a stream of images"):
        stream_of(kind=f"{__name__}:no_stream")
    with pytest.raises(TrainingError, match="power"):
        stream_of(kind=f"{__name__}:by_instances")


@pytest.mark.parametrize(
    "settings", [{"kind": "repeat"}, {"kind": "repeat_factor", "options": {"mean": "geometric"}}]
)
def test_unknown_samplers_and_options_of_none_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"match pattern|options are those of a function"):
        Sampler(**settings)
