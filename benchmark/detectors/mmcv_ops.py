"""Operators of ``mmcv._ext`` based on torchvision's kernels, so that mmcv need not be compiled.

MMDetection imports ``mmcv.ops``, which imports the compiled extension. This file provides a module of that
name first. torchvision has CPU and CUDA kernels of the operators that the two-stage models call; any other
operator raises an error that names it. If mmcv is compiled, its own operators are used.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from benchmark.errors import MissingDependencyError

EXTENSION = "mmcv._ext"

OFFSETS_FROM_EDGES = (
    0  # mmcv's ``offset``: with 1 a box includes its last pixel, which torchvision does not support
)
AVERAGE = 1  # mmcv's code for RoIAlign with average pooling


def provide_operators() -> None:
    """Install the stand-in where ``mmcv.ops`` looks for the compiled extension, unless mmcv is compiled.

    Raises:
        MissingDependencyError: mmcv, mmengine or mmdet is not installed.
    """
    for package in ("mmengine", "mmcv", "mmdet"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"back end 'mmdet' needs the package {package}",
                remedy="pip install -c envs/constraints.txt -e '.[mmdet]'",
            )
    if EXTENSION not in sys.modules and importlib.util.find_spec(EXTENSION) is None:
        sys.modules[EXTENSION] = _StandIn(EXTENSION)


def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes (n, 4) that non-maximum suppression keeps, best first."""
    if offset != OFFSETS_FROM_EDGES:
        raise _missing(f"nms with offset {offset}")
    kept: Tensor = torch.ops.torchvision.nms(_wide(boxes), _wide(scores), iou_threshold)
    return kept


def roi_align_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign of features (n, C, H, W) at RoIs (k, 5) into ``output`` (k, C, height, width)."""
    if pool_mode != AVERAGE:
        raise _missing("roi_align with maxima")
    size = (aligned_height, aligned_width)
    output.copy_(
        torch.ops.torchvision.roi_align(
            _wide(features), _wide(rois), spatial_scale, *size, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    gradient: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    feature_gradient: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of the features (n, C, H, W) into ``feature_gradient``."""
    size = (aligned_height, aligned_width)
    feature_gradient.copy_(
        torch.ops.torchvision._roi_align_backward(
            _wide(gradient),
            _wide(rois),
            spatial_scale,
            *size,
            *feature_gradient.shape,
            sampling_ratio,
            aligned,
        )
    )


def deform_conv_forward(
    features: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Deformable convolution into ``output``; offsets are (n, 2 G k k, H', W'), y before x, in both packages.

    ``columns`` and ``ones`` are work space of mmcv's kernel. torchvision infers the groups from the shapes.
    """
    output.copy_(deform_conv2d(features, offset, weight, **_geometry(geometry)))


def deform_conv_backward_input(
    features: Tensor,
    offset: Tensor,
    gradient: Tensor,
    feature_gradient: Tensor,
    offset_gradient: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Gradients of features and offsets, from torchvision's operator."""
    found = _derivative(gradient, [features, offset], lambda x, o: _plain(x, o, weight, geometry))
    feature_gradient.copy_(found[0])
    offset_gradient.copy_(found[1])


def deform_conv_backward_parameters(
    features: Tensor,
    offset: Tensor,
    gradient: Tensor,
    weight_gradient: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **geometry: int,
) -> None:
    """Add the gradient of the weights, times ``scale``, to ``weight_gradient``."""
    like_weight = torch.zeros_like(weight_gradient)  # the derivative does not depend on the weights
    (found,) = _derivative(gradient, [like_weight], lambda w: _plain(features, offset, w, geometry))
    weight_gradient.add_(found, alpha=scale)


def modulated_deform_conv_forward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Deformable convolution with a weight for every sampled position (n, G k k, H', W')."""
    used = bias if with_bias else None
    output.copy_(deform_conv2d(features, offset, weight, used, mask=mask, **_geometry(geometry)))


def modulated_deform_conv_backward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    feature_gradient: Tensor,
    weight_gradient: Tensor,
    bias_gradient: Tensor,
    offset_gradient: Tensor,
    mask_gradient: Tensor,
    gradient: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """All gradients, from torchvision's operator."""
    settings = _geometry(geometry)
    found = _derivative(
        gradient,
        [features, weight, offset, mask],
        lambda x, w, o, m: deform_conv2d(x, o, w, mask=m, **settings),
    )
    filled = (feature_gradient, weight_gradient, offset_gradient, mask_gradient)
    for target, value in zip(filled, found, strict=True):
        target.copy_(value)
    if with_bias:
        bias_gradient.copy_(gradient.sum(dim=(0, 2, 3)))


def _wide(values: Tensor) -> Tensor:
    """At least float32: torchvision's kernels do not all support half and bfloat16."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _plain(features: Tensor, offset: Tensor, weight: Tensor, geometry: dict[str, int]) -> Tensor:
    return deform_conv2d(features, offset, weight, **_geometry(geometry))


def _geometry(given: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Stride, padding and dilation, (vertical, horizontal), from either of mmcv's two spellings."""
    if "dH" in given:
        names = {"stride": ("dH", "dW"), "padding": ("padH", "padW"), "dilation": ("dilationH", "dilationW")}
    else:
        short = {"stride": "stride", "padding": "pad", "dilation": "dilation"}
        names = {key: (f"{name}_h", f"{name}_w") for key, name in short.items()}
    return {key: (given[vertical], given[horizontal]) for key, (vertical, horizontal) in names.items()}


def _derivative(
    gradient: Tensor, inputs: list[Tensor], function: Callable[..., Tensor]
) -> tuple[Tensor, ...]:
    """Gradients of ``inputs``. Computes the operator again, because mmcv does not pass the graph."""
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_() for value in inputs]
        return torch.autograd.grad(function(*leaves), leaves, gradient)


def _missing(operator: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"the operator {operator} of mmcv is not compiled, and torchvision has none in its place",
        remedy="compile it, in a quarter of an hour: pip install 'setuptools<82' wheel ninja psutil, then "
        "pip install --no-build-isolation --force-reinstall --no-deps onedl-mmcv==2.3.6",
    )


_OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        nms,
        roi_align_forward,
        roi_align_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
    )
}


class _StandIn(ModuleType):
    """``mmcv._ext`` with the operators of this file; other operators raise when called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)  # mmengine's report looks for it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> NoReturn:
            raise _missing(name)

        return _OPERATORS.get(name, refuse)
