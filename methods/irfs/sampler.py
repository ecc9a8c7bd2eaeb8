"""Instance-aware repeat factor sampling (arXiv 2305.08069), and its exponential form (arXiv 2503.21893)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchmarkError
from benchmark.sampling import DrawnStream, ImageStream, LabelledImages
from benchmark.statistics import image_repeat_factors

MEANS = {
    "geometric": lambda images, instances: np.sqrt(images * instances),
    "harmonic": lambda images, instances: 2 * images * instances / (images + instances),
    "arithmetic": lambda images, instances: (images + instances) / 2,
    "quadratic": lambda images, instances: np.sqrt((images**2 + instances**2) / 2),
    "instance_only": lambda images, instances: instances,
}


def instance_aware(
    images: LabelledImages,
    seed: int,
    threshold: float = 0.001,
    mean: str = "geometric",
    ceiling: bool = False,
) -> ImageStream:
    """The sampler: every image repeated by the largest factor among its categories.

    Args:
        images: the images to draw from.
        seed: seed of the order.
        threshold: t.
        mean: kind of mean of a category's share of the images and its share of the instances.
        ceiling: round factors up, instead of at random in every epoch.
    """
    factors = category_factors(images.image_counts, images.instance_counts, len(images), threshold, mean)
    of_images = image_repeat_factors(images.labels, factors)
    return ImageStream(np.ceil(of_images) if ceiling else of_images, seed)


def category_factors(
    image_counts: ArrayLike,
    instance_counts: ArrayLike,
    num_images: int,
    threshold: float,
    mean: str = "geometric",
) -> NDArray[np.float64]:
    """r_c = max(1, sqrt(t / f_c)), f_c the mean of n_c / N and m_c / sum m; 1 where a category never occurs.

    Args:
        image_counts: n (C,), images with the category.
        instance_counts: m (C,), its annotations.
        num_images: N.
        threshold: t.
        mean: a key of ``MEANS``.
    """
    if mean not in MEANS:
        raise BenchmarkError("unknown mean", found=mean, expected=", ".join(MEANS))
    n, m = np.asarray(image_counts, np.float64), np.asarray(instance_counts, np.float64)
    seen = m > 0
    share = MEANS[mean](n[seen] / num_images, m[seen] / m.sum())
    factors = np.ones(len(n))
    factors[seen] = np.maximum(1.0, np.sqrt(threshold / share))
    return factors


def exponential(
    images: LabelledImages, seed: int, threshold: float = 0.0001, alpha: float = 2.0
) -> DrawnStream:
    """The sampler of E-IRFS: images drawn with replacement, in proportion to exponential weights.

    Args:
        images: the images to draw from; an image without annotations has weight 1, less than any other, as
            released.
        seed: seed of the draws.
        threshold: t.
        alpha: factor in the exponent.
    """
    weights = exponential_weights(images.image_counts, images.instance_counts, threshold, alpha)
    return DrawnStream(image_repeat_factors(images.labels, weights), seed)


def exponential_weights(
    image_counts: ArrayLike, instance_counts: ArrayLike, threshold: float, alpha: float
) -> NDArray[np.float64]:
    """w_c = exp(alpha sqrt(t / sqrt(f_i f_b))), (C,), as released.

    The shares are f_i = n_c / sum n, not of the images, with n at least 1, and f_b = (m_c + 1) / sum (m + 1),
    because the release's counters start at 1.
    """
    n = np.maximum(np.asarray(image_counts, np.float64), 1)
    m = np.asarray(instance_counts, np.float64) + 1
    return np.exp(alpha * np.sqrt(threshold / np.sqrt(n / n.sum() * (m / m.sum()))))
