"""The operators that stand in for mmcv's compiled ones: torchvision's values and gradients through mmcv's own
functions, and, where a compiled mmcv is installed, its values."""

import importlib.util

import pytest
import torch
from torch import Tensor
from torchvision import ops

from benchmark.detectors import mmcv_ops
from benchmark.errors import MissingDependencyError

try:
    mmcv_ops.provide_operators()
except MissingDependencyError as missing:
    pytest.skip(str(missing.what), allow_module_level=True)

from mmcv.ops import batched_nms, deform_conv2d, modulated_deform_conv2d, nms, roi_align, soft_nms

COMPILED = importlib.util.find_spec(mmcv_ops.EXTENSION).loader is not None  # type: ignore[union-attr]


def boxes(count: int) -> Tensor:
    corner = torch.rand(count, 2) * 40
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * 20], dim=1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_suppression(threshold: float) -> None:
    for count in (0, 1, 200):
        candidates, scores = boxes(count), torch.rand(count)
        found, kept = nms(candidates, scores, threshold)
        assert kept.equal(ops.nms(candidates, scores, threshold))
        assert found[:, :4].equal(candidates[kept])
    labels = torch.randint(3, (200,))
    _, kept = batched_nms(candidates, scores, labels, {"type": "nms", "iou_threshold": threshold})
    assert kept.equal(ops.batched_nms(candidates, scores, labels, threshold))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align(aligned: bool, samples: int) -> None:
    x, rois = torch.rand(2, 3, 16, 16).double(), boxes(10).double()
    rois = torch.cat([torch.randint(2, (10, 1)), rois], dim=1)
    values, gradients = [], []
    for function in (
        lambda x: roi_align(x, rois, 7, 0.25, samples, "avg", aligned),
        lambda x: ops.roi_align(x, rois, 7, 0.25, samples or -1, aligned),
    ):
        leaf = x.clone().requires_grad_()
        values.append(function(leaf))
        (values[-1] ** 2).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    with torch.autocast("cpu", torch.bfloat16):
        rough = roi_align(x.bfloat16(), rois.bfloat16(), 7, 0.25, samples, "avg", aligned)
    assert rough.dtype == torch.bfloat16


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolution(modulated: bool, groups: int) -> None:
    """Against torchvision's operator, also in its derivatives, which are found by computing it once more."""
    x, weight = torch.rand(2, 4, 9, 8).double(), torch.rand(6, 4 // groups, 3, 3).double()
    offset, mask = torch.randn(2, 2 * 18, 5, 4).double(), torch.rand(2, 18, 5, 4).double()
    bias = torch.rand(6).double()

    def mmcvs(x: Tensor, o: Tensor, w: Tensor, m: Tensor, b: Tensor) -> Tensor:
        if modulated:
            return modulated_deform_conv2d(x, o, m, w, b, 2, 1, 1, groups, 2)
        return deform_conv2d(x, o, w, 2, 1, 1, groups, 2)

    def torchvisions(x: Tensor, o: Tensor, w: Tensor, m: Tensor, b: Tensor) -> Tensor:
        more = {"bias": b, "mask": m} if modulated else {}
        return ops.deform_conv2d(x, o, w, stride=2, padding=1, **more)

    results = []
    for function in (mmcvs, torchvisions):
        leaves = [value.clone().requires_grad_() for value in (x, offset, weight, mask, bias)]
        value = function(*leaves)
        (value**2).sum().backward()
        results.append([value, *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert len(results[0]) == len(results[1]) == (6 if modulated else 4)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.skipif(COMPILED, reason="mmcv is compiled: it has the operator")
def test_another_operator_says_that_it_is_not_there() -> None:
    with pytest.raises(MissingDependencyError, match="operator softnms of mmcv is not compiled"):
        soft_nms(boxes(3), torch.rand(3))


@pytest.mark.skipif(not COMPILED, reason="mmcv is not compiled: there is nothing to compare with")
def test_the_stand_in_equals_the_compiled_operators() -> None:
    compiled = importlib.import_module(mmcv_ops.EXTENSION)
    candidates, scores = boxes(300), torch.rand(300)
    assert compiled.nms(candidates, scores, iou_threshold=0.5, offset=0).equal(
        mmcv_ops.nms(candidates, scores, iou_threshold=0.5, offset=0)
    )
    x, rois = torch.rand(2, 3, 16, 16), torch.cat([torch.randint(2, (10, 1)), boxes(10)], dim=1)
    settings = {"aligned_height": 7, "aligned_width": 7, "spatial_scale": 0.25, "sampling_ratio": 0}
    found = []
    for forward in (compiled.roi_align_forward, mmcv_ops.roi_align_forward):
        found.append(torch.zeros(10, 3, 7, 7))
        forward(x, rois, found[-1], x.new_zeros(0), x.new_zeros(0), **settings, pool_mode=1, aligned=True)
    torch.testing.assert_close(found[0], found[1])
