"""How often a category is seen in training images, as losses with a class prior need it."""

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.class_statistics import ClassStatistics
from benchmark.statistics.errors import StatisticsError


def image_frequencies(statistics: ClassStatistics) -> NDArray[np.float32]:
    """f = image_counts / annotated images, (C,) float32 strictly in (0, 1) (Ren et al., arXiv 2007.10740).

    A category without images counts as seen in one; one that is in every image as missing in half an image.
    Both make log((1 - f) / f) finite and neither occurs in LVIS.

    Raises:
        StatisticsError: the table does not tell the number of annotated images.
    """
    if statistics.num_annotated_images is None:
        raise StatisticsError(
            "image frequencies need the number of annotated images, which this table does not tell",
            remedy="make the table anew with longtail stats",
        )
    images = max(statistics.num_annotated_images, 1)
    counts = np.minimum(np.maximum(statistics.image_counts, 1), images - 0.5)
    return (counts / images).astype(np.float32)
