"""RoIAlign by matrix products is torchvision's."""

import pytest
import torch
import torchvision

from benchmark.detectors.roi_align import SMALL, roi_align

ROIS = torch.tensor(
    [
        [0, 10.3, 4.1, 30.9, 60.0],
        [0, -20.0, -9.0, 3.5, 2.0],  # beyond the border, some samples by more than one position
        [0, 150.0, 90.0, 300.0, 200.0],
        [2, 40.0, 40.0, 40.0, 40.0],  # empty; image 1 has no RoI
        [2, 0.0, 0.0, 160.0, 128.0],
        [2, 12.0, 8.0, 12.5, 90.0],
    ]
)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("side", "stride"), [(7, 4), (14, 4), (7, 32)])
def test_values_and_gradients_are_those_of_torchvision(aligned: bool, side: int, stride: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 5, 128 // stride, 160 // stride)
    found = []
    for function in (roi_align, torchvision.ops.roi_align):
        own = features.clone().requires_grad_()
        pooled = function(own, ROIS, side, 1 / stride, 2, aligned)
        torch.manual_seed(1)
        (pooled * torch.randn(pooled.shape)).sum().backward()
        found.append((pooled.detach(), own.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [8, SMALL])
def test_without_rois(side: int) -> None:
    """Also where the map is too large for products."""
    pooled = roi_align(torch.zeros(2, 5, 8, side), torch.zeros(0, 5), 7, 0.25, 2, True)
    assert pooled.shape == (0, 5, 7, 7)
