"""Repeat factors equal two public implementations, weights the released E-IRFS."""

from typing import Any

import numpy as np
import pytest
from golden_cases import golden_cases, tolerance
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import BenchmarkError
from benchmark.sampling import DrawnStream, LabelledImages
from benchmark.statistics import category_repeat_factors
from methods.irfs.sampler import MEANS, category_factors, exponential, exponential_weights, instance_aware

CLOSE = tolerance("irfs")


def _images(case: dict[str, Any]) -> LabelledImages:
    return LabelledImages(case["inputs"]["categories_per_image"], case["inputs"]["num_classes"])


@pytest.mark.parametrize("case", golden_cases("irfs", "irfs_repeat_factors", ("derived",)))
def test_repeat_factors_equal_the_public_implementations(case: dict[str, Any]) -> None:
    images, settings, expected = _images(case), case["hyperparameters"], case["expected"]
    factors = category_factors(
        images.image_counts, images.instance_counts, len(images), settings["threshold"], settings["mean"]
    )
    np.testing.assert_allclose(factors, expected["category_factors"], **CLOSE)
    stream = instance_aware(images, 0, settings["threshold"], settings["mean"])
    np.testing.assert_allclose(stream.repeat_factors, expected["image_factors"], **CLOSE)


@pytest.mark.parametrize("case", golden_cases("irfs", "irfs_factors_real", ("derived",)))
def test_factors_of_lvis(case: dict[str, Any]) -> None:
    inputs, settings, expected = case["inputs"], case["hyperparameters"], case["expected"]
    counts = (inputs["image_counts"], inputs["instance_counts"], inputs["num_images"])
    factors = category_factors(*counts, settings["threshold"], settings["mean"])
    plain = category_repeat_factors(inputs["image_counts"], inputs["num_images"], settings["threshold"])
    for found, end, close in ((factors, "", CLOSE), (plain, "_rfs", tolerance("irfs", "float32"))):
        assert int((found > 1).sum()) == expected[f"number_above_one{end}"]
        np.testing.assert_allclose(found.max(), expected[f"largest{end}"], **close)
        np.testing.assert_allclose(found.sum(dtype=np.float64), expected[f"sum_of_factors{end}"], **close)
    np.testing.assert_allclose(factors[: len(expected["first_twenty"])], expected["first_twenty"], **CLOSE)


@pytest.mark.parametrize("case", golden_cases("irfs", "eirfs_weights"))
def test_exponential_weights_equal_the_release(case: dict[str, Any]) -> None:
    images, settings, expected = _images(case), case["hyperparameters"], case["expected"]
    counts = images.image_counts, images.instance_counts
    weights = exponential_weights(*counts, settings["threshold"], settings["alpha"])
    np.testing.assert_allclose(weights, expected["category_weights"], **CLOSE)
    stream = exponential(images, 0, settings["threshold"], settings["alpha"])
    assert isinstance(stream, DrawnStream)
    np.testing.assert_allclose(stream.repeat_factors, expected["image_weights"], **CLOSE)
    shares = stream.repeat_factors / stream.repeat_factors.sum()
    np.testing.assert_allclose(shares, expected["probabilities"], **CLOSE)


COUNTS = st.lists(st.integers(1, 50), min_size=2, max_size=6)


@given(COUNTS, st.sampled_from(["geometric", "harmonic", "quadratic"]))
def test_one_more_instance_makes_its_category_no_rarer_and_others_no_less_rare(
    counts: list[int], mean: str
) -> None:
    """In an image that already has the category, so only instances change."""
    instances = np.array(counts) * 2
    before = category_factors(counts, instances, 60, 0.3, mean)
    instances[0] += 1
    after = category_factors(counts, instances, 60, 0.3, mean)
    assert after[0] <= before[0] + 1e-12
    assert (after[1:] >= before[1:] - 1e-12).all()
    assert (after >= 1).all()


def test_rounding_up_is_mmdetections_reading() -> None:
    images = LabelledImages([[0]] * 9 + [[0, 1]], 2)
    by_chance, up = (instance_aware(images, 0, 0.15, ceiling=ceiling) for ceiling in (False, True))
    assert 1 < by_chance.repeat_factors[-1] < 2
    assert up.repeat_factors.tolist() == [1.0] * 9 + [2.0]


def test_an_unknown_mean_is_refused() -> None:
    with pytest.raises(BenchmarkError, match=r"unknown mean(.|\n)*geometric"):
        category_factors([1], [1], 1, 0.1, "median")
    assert set(MEANS) == {"geometric", "harmonic", "arithmetic", "quadratic", "instance_only"}
