"""Repeat factors of categories and images, and infrequent categories (Gupta et al., arXiv 1908.03195)."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.statistics.class_statistics import ClassStatistics
from benchmark.statistics.divisions import warn_unless_divided
from benchmark.statistics.errors import StatisticsError

Real = TypeVar("Real", np.float32, np.float64)


def category_repeat_factors(
    image_counts: ArrayLike, num_images: int, threshold: float
) -> NDArray[np.float32]:
    """max(1, sqrt(threshold / f)) with f = image_counts / num_images; 1 for a category without images.

    Warns (``DataWarning``) if no factor is above 1.

    Args:
        image_counts: (C,) training images of every category.
        num_images: number of training images; the papers count only those with an annotation.
        threshold: image frequency below which a category is repeated, 0.001 in LVIS.

    Returns:
        (C,) float32, at least 1.
    """
    return _repeat_factors(image_counts, num_images, threshold).astype(np.float32)


def ceiling_repeat_factors(
    categories_per_image: Sequence[Sequence[int]], image_counts: ArrayLike, num_images: int, threshold: float
) -> NDArray[np.float32]:
    """Whole repeat factors of images, (images,) float32: the ceiling of the largest among the categories.

    As in mmdetection's ``ClassBalancedDataset``: not random, so an image whose factor is slightly above 1
    occurs twice. Computed in float64 as there, because the ceilings of 2 and 2 + 1e-15 differ.

    Args:
        categories_per_image: labels 0..C-1 of every image.
        image_counts: (C,) training images of every category.
        num_images: training images.
        threshold: image frequency below which a category is repeated.
    """
    factors = _repeat_factors(image_counts, num_images, threshold)
    return np.array(
        [np.ceil(factors[list(labels)].max()) if len(labels) else 1.0 for labels in categories_per_image],
        dtype=np.float32,
    )


def image_repeat_factors(
    categories_per_image: Sequence[Sequence[int]], category_factors: NDArray[Real]
) -> NDArray[Real]:
    """The largest factor among an image's categories, (images,) of their type; 1 for an image without any.

    ``categories_per_image`` holds labels 0..C-1; repeats do not matter.
    """
    return np.array(
        [category_factors[list(labels)].max() if len(labels) else 1.0 for labels in categories_per_image],
        dtype=category_factors.dtype,
    )


def copies_added_to_original(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """ceil(r) copies *in addition to* the image itself if ceil(r) > 1, so one more than r requires.

    The sampler released with Li et al. (arXiv 2006.10408) does this.

    Args:
        factors: repeat factors r (images,), at least 1.

    Returns:
        How often each image occurs in an epoch, (images,) whole numbers: 1, or from 3.
    """
    rounded = np.ceil(factors)
    return np.where(rounded > 1, rounded + 1, 1).astype(np.float32)


def infrequent_categories(statistics: ClassStatistics, threshold: float) -> NDArray[np.bool_]:
    """Whether image_count / annotated images is below ``threshold``, (C,); strict, and in float32 as
    released.

    Warns (``DataWarning``) if no category is, or every category. Raises ``StatisticsError`` for a plain
    table, which does not have the number of annotated images.
    """
    if statistics.num_annotated_images is None:
        raise StatisticsError(
            "the class statistics do not tell how many images are annotated",
            expected="a first line '# num_annotated_images: ...'",
            remedy="make the table with longtail stats",
        )
    frequency = _frequency(statistics.image_counts, statistics.num_annotated_images)
    below: NDArray[np.bool_] = frequency.astype(np.float32) < np.float32(threshold)
    measure = "part of the annotated images"
    warn_unless_divided(below, f"frequency threshold {threshold:g}", "infrequent", measure, frequency)
    return below


def _repeat_factors(image_counts: ArrayLike, num_images: int, threshold: float) -> NDArray[np.float64]:
    frequency = _frequency(image_counts, num_images)
    factors = np.sqrt(threshold / np.where(frequency > 0, frequency, np.inf))
    repeated = factors > 1
    if not repeated.any():
        measure = "part of the training images"
        warn_unless_divided(repeated, f"repeat threshold {threshold:g}", "repeated", measure, frequency)
    return np.maximum(1.0, factors)


def _frequency(image_counts: ArrayLike, num_images: int) -> NDArray[np.float64]:
    counts = np.asarray(image_counts, dtype=np.float64)
    if num_images <= 0 or (len(counts) and (counts.min() < 0 or counts.max() > num_images)):
        raise StatisticsError(
            "image counts do not fit the number of images",
            found=f"counts {counts.min(initial=0):g} to {counts.max(initial=0):g} for {num_images} images",
            expected="counts from 0 to the number of images",
        )
    return counts / num_images
