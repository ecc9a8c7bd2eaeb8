"""Frequencies of categories in training images, for losses with a class prior."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmark.statistics.class_statistics import ClassStatistics
from benchmark.statistics.errors import StatisticsError

_NORMAL = NormalDist()


def image_frequencies(statistics: ClassStatistics) -> NDArray[np.float32]:
    """f = image_counts / annotated images, (C,) float32 strictly in (0, 1) (Ren et al., arXiv 2007.10740).

    A category without images is counted in one; a category in every image is counted as missing in half an
    image. Both keep log((1 - f) / f) finite, and neither occurs in LVIS.

    Raises:
        StatisticsError: the table does not have the number of annotated images.
    """
    if statistics.num_annotated_images is None:
        raise StatisticsError(
            "image frequencies need the number of annotated images, which this table does not tell",
            remedy="write the table again with longtail stats",
        )
    images = max(statistics.num_annotated_images, 1)
    counts = np.minimum(np.maximum(statistics.image_counts, 1), images - 0.5)
    return (counts / images).astype(np.float32)


def counts_and_total(statistics: ClassStatistics, of: str) -> tuple[NDArray[np.float64], float]:
    """Counts (C,) of at least 1, and the total for their fractions.

    Args:
        statistics: of the training split.
        of: ``images``: images with the category, of all images, annotated or not; ``instances``: annotations
            of the category, of all annotations.

    Raises:
        StatisticsError: the table does not have the number of images, or ``of`` is something else.
    """
    if of == "instances":
        return np.maximum(statistics.instance_counts, 1.0), float(max(statistics.instance_counts.sum(), 1))
    if of != "images":
        raise StatisticsError("unknown kind of counts", found=of, expected="images or instances")
    if statistics.num_images is None:
        raise StatisticsError(
            "shares of images need the number of images, which this table does not tell",
            remedy="write the table again with longtail stats",
        )
    return np.maximum(statistics.image_counts, 1.0), float(max(statistics.num_images, 1))


def rarity(link: str, counts: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Rarity of a category on the scale of a link function, larger for rarer ones (IIF, arXiv 2209.04861).

    With the share f = counts / total, in the right column below 1 by at least half a count:

        raw     -log f                                prob    log((1 - f) / f)
        base2   -log2 f                               normit  -Phi^-1(f)
        base10  -log10 f                              gombit  -log(-log(1 - f))
        smooth  log((total + 1) / (counts + 1)) + 1

    Raises:
        StatisticsError: an unknown link.
    """
    f, below = counts / total, np.minimum(counts, total - 0.5) / total
    links: dict[str, Callable[[], NDArray[np.float64]]] = {
        "raw": lambda: -np.log(f),
        "base2": lambda: -np.log2(f),
        "base10": lambda: -np.log10(f),
        "smooth": lambda: np.log((total + 1) / (counts + 1)) + 1,
        "prob": lambda: np.log((1 - below) / below),
        "normit": lambda: -np.array([_NORMAL.inv_cdf(share) for share in below.tolist()]),
        "gombit": lambda: -np.log(-np.log1p(-below)),
    }
    if link not in links:
        raise StatisticsError("unknown link", found=link, expected=", ".join(links))
    return links[link]()
