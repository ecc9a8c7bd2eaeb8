"""Repeat factors equal those of the original sampler."""

from dataclasses import replace

import numpy as np
import pytest
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from hypothesis import given
from hypothesis import strategies as st

from benchmark.sampling import round_stochastically
from benchmark.statistics import (
    StatisticsError,
    category_repeat_factors,
    ceiling_repeat_factors,
    copies_added_to_original,
    image_repeat_factors,
    infrequent_categories,
)
from methods.balms.sampler import class_balanced_factors


@pytest.mark.parametrize("case", golden_cases("balms", "image_repeat_factors"))
def test_golden_factors(case):
    expected = case["expected"]
    label = {id_: label for label, id_ in enumerate(expected["category_ids"])}
    images = [[label[id_] for id_ in ids] for ids in case["inputs"]["image_category_ids"]]
    counts = [sum(label in labels for labels in images) for label in range(len(label))]
    assert np.allclose(np.array(counts) / len(images), expected["category_image_fraction"])
    for factors, key in (
        (
            category_repeat_factors(counts, len(images), case["inputs"]["repeat_threshold"]),
            "repeat_factor_rfs",
        ),
        (class_balanced_factors(counts, len(images)), "repeat_factor_class_balanced"),
    ):
        result = image_repeat_factors(images, factors)
        assert (factors.dtype, result.dtype) == (np.float32, np.float32)
        np.testing.assert_allclose(result, expected[key], **tolerance("balms", "float32"))


@pytest.mark.parametrize("case", golden_cases("bags", "repeat_factor_sampling"))
def test_copies_are_those_of_the_released_sampler_of_bags(case):
    inputs, expected = case["inputs"], case["expected"]
    classes = sorted(inputs["images_of_class"], key=int)
    images = [
        [label for label, name in enumerate(classes) if image in inputs["images_of_class"][name]]
        for image in range(inputs["num_images"])
    ]
    counts = [len(inputs["images_of_class"][name]) for name in classes]
    factors = category_repeat_factors(counts, len(images), case["hyperparameters"]["threshold"])
    close = tolerance("bags", "float32")
    np.testing.assert_allclose(factors, [expected["class_repeat_factor"][name] for name in classes], **close)
    of_images = image_repeat_factors(images, factors)
    np.testing.assert_allclose(of_images, expected["image_repeat_factor"], **close)
    copies = copies_added_to_original(of_images)
    assert copies.tolist() == expected["copies_per_epoch_upstream"]
    assert (copies - 1).tolist() == expected["extra_copies_upstream"]


@pytest.mark.parametrize("case", golden_cases("gol", "ceil_repeat_factors"))
def test_ceilings_equal_mmdetection(case):
    images, expected = case["inputs"]["image_category_ids"], case["expected"]
    threshold = case["inputs"]["oversample_threshold"]
    categories = max(label for labels in images for label in labels) + 1
    counts = [sum(label in labels for labels in images) for label in range(categories)]
    factors = image_repeat_factors(images, category_repeat_factors(counts, len(images), threshold))
    np.testing.assert_allclose(factors, expected["repeat_factors"], **tolerance("gol", "float32"))
    whole = ceiling_repeat_factors(images, counts, len(images), threshold)
    for uniform in (0.0, 0.999):  # no draw changes the epoch
        indices = round_stochastically(whole, np.full(len(images), uniform))
        assert indices.tolist() == expected["repeat_indices"]


@pytest.mark.parametrize("case", golden_cases("gol", "infrequent_classes"))
def test_infrequent_categories_of_lvis(case):
    statistics = replace(
        statistics_of(case["inputs"]["image_counts"]),
        num_annotated_images=case["inputs"]["images_with_annotation"],
    )
    infrequent = infrequent_categories(statistics, case["hyperparameters"]["lambda_"])
    expected = case["expected"]
    assert int(infrequent.sum()) == expected["num_infrequent"]
    assert infrequent.nonzero()[0].tolist() == expected["infrequent_class_indices"]
    assert statistics.image_counts[infrequent].max() == expected["largest_infrequent_image_count"]


def test_a_plain_table_has_no_frequencies():
    with pytest.raises(StatisticsError, match="how many images are annotated"):
        infrequent_categories(replace(statistics_of([1]), num_annotated_images=None), 0.001)


@given(st.lists(st.integers(0, 1000), min_size=1), st.floats(0, 1))
def test_rarer_is_never_seen_less(counts, threshold):
    order = np.argsort(counts)
    seen = np.sort(counts) > 0
    for factors in (category_repeat_factors(counts, 1000, threshold), class_balanced_factors(counts, 1000)):
        assert (np.diff(factors[order][seen]) <= 0).all()
        assert (factors >= 1).all()
        assert np.isfinite(factors).all()


def test_an_image_without_categories_is_seen_once():
    factors = category_repeat_factors([1, 0], 4000, 0.001)
    assert factors.tolist() == [2.0, 1.0]
    assert image_repeat_factors([[], [0], [1, 0, 0]], factors).tolist() == [1.0, 2.0, 2.0]


@pytest.mark.parametrize(("counts", "images"), [([5], 4), ([-1], 4), ([1], 0)])
def test_counts_that_cannot_be_are_refused(counts, images):
    with pytest.raises(StatisticsError, match="do not fit"):
        category_repeat_factors(counts, images, 0.001)
