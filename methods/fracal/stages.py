"""The fractal dimension of a category: how evenly the centres of its boxes are spread over the image."""

from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.detectors import Detector
from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics
from benchmark.training import FitData, TrainingBoxes
from methods.fracal.classifier import Fractal

Variant = Literal["box_dim", "info_dim", "smooth_info_dim"]
FEWEST = 4  # least number of boxes for a line fit: grids with 1 and 2 cells per side


def measure(
    detector: Detector,
    data: FitData,
    statistics: ClassStatistics,
    variant: Variant = "box_dim",
    largest_grid: int = 64,
) -> dict[str, float]:
    """Store the dimensions of all categories in the classifiers; uses annotations only."""
    dimension = dimensions(data.boxes(), statistics.num_classes, variant, largest_grid)
    for classifier in detector.classifiers:
        cast(Fractal, classifier).dimension.copy_(torch.as_tensor(dimension))
    return {"mean_dimension": float(dimension.mean()), "largest_dimension": float(dimension.max())}


def dimensions(
    boxes: TrainingBoxes, num_classes: int, variant: Variant = "box_dim", largest_grid: int = 64
) -> NDArray[np.float64]:
    """D (C,): slope of the line through log M(g) over log g for grids of g x g cells, g = 1, 2, ...

        box_dim          M = N_g, the occupied cells; at least 1
        info_dim         M = g^2 / N_g
        smooth_info_dim  M = g^2 / (N_g + 1)

    The grids go to the largest g with g^2 boxes; a category with fewer than four has dimension 1. A centre on
    a cell's border belongs to the upper cell; one at the far end of the image to none, but counts as a box.

    Args:
        boxes: of the training file.
        num_classes: C.
        variant: what is counted.
        largest_grid: bound of g.
    """
    if variant not in ("box_dim", "info_dim", "smooth_info_dim"):
        raise BenchmarkError(
            "unknown variant", found=variant, expected="box_dim, info_dim or smooth_info_dim"
        )
    centres = boxes.boxes[:, :2] + boxes.boxes[:, 2:] / 2
    found = np.ones(num_classes)
    for label in range(num_classes):
        own = centres[boxes.labels == label]
        if len(own) >= FEWEST:
            found[label] = _dimension(own, variant, largest_grid)
    return found


def _dimension(centres: NDArray[np.float64], variant: Variant, largest_grid: int) -> float:
    grids = np.arange(1, min(largest_grid, int(np.sqrt(len(centres)))) + 1)
    inside = centres[((centres >= 0) & (centres < 1)).all(axis=1)]
    if len(inside) == 0 or len(grids) < 2:
        return 1.0
    occupied = np.array([len(np.unique((inside * grid).astype(int) @ [grid, 1])) for grid in grids])
    measured = {
        "box_dim": occupied,
        "info_dim": grids**2 / occupied,
        "smooth_info_dim": grids**2 / (occupied + 1),
    }[variant]
    slope = float(np.polyfit(np.log(grids), np.log(measured), 1)[0])
    return max(slope, 1.0) if variant == "box_dim" else slope
