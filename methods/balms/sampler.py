"""The images of the meta step, drawn so that categories occur about equally often."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.sampling import DrawnStream, LabelledImages
from benchmark.statistics import image_repeat_factors


def class_balanced(images: LabelledImages, seed: int) -> DrawnStream:
    """The sampler: images drawn in proportion to the factor of their rarest category."""
    factors = class_balanced_factors(images.image_counts, len(images))
    return DrawnStream(image_repeat_factors(images.labels, factors), seed)


def class_balanced_factors(image_counts: ArrayLike, num_images: int) -> NDArray[np.float32]:
    """1 / f with f = image_counts / num_images, (C,) float32; 1 for a category without images."""
    frequency = np.asarray(image_counts, dtype=np.float64) / num_images
    return (1.0 / np.where(frequency > 0, frequency, 1.0)).astype(np.float32)
