"""Initial weights of a detector, from a model hub or a local file, in any known layout."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models import get_model_weights

from benchmark.detectors.checkpoints import is_counter, read_tensors
from benchmark.detectors.interface import Detector
from benchmark.detectors.layouts import (
    LAYOUTS,
    Layout,
    fitting,
    is_by_class,
    naming_of,
    trunk_name,
)
from benchmark.detectors.pixels import key_for_detectron2
from benchmark.errors import BenchmarkError, MissingDependencyError
from benchmark.recipes.detector_settings import HUB_COCO_BACKBONES
from benchmark.recipes.detector_settings import DetectorSettings as Settings
from benchmark.recipes.project import working_root
from benchmark.statistics.unpickling import read_objects

LARGEST_FILE = 2 * 2**30  # bytes of weights
LEAST_SHARE = 0.9
"""Least fraction of the tensors that initial weights must fill, of those that they are meant for."""

MSRA = "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-{}.pkl"
_MSRA_DEPTHS = {"resnet50": 50, "resnet101": 101}
_COCO_MODELS = {"faster_rcnn": "fasterrcnn_{}_fpn", "mask_rcnn": "maskrcnn_{}_fpn"}
_CAFFE2_STEM = {"conv1_": "stem.conv1.", "res_conv1_bn_": "stem.conv1.norm."}
_CAFFE2_LAYERS = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE2_ENDS = {"w": "weight", "s": "weight", "b": "bias"}
_OF_DETECTRON2 = re.compile(r"(backbone\.bottom_up\.)?(stem|res[2-5])\.")


def load_initial_weights(detector: Detector) -> None:
    """Copy the weights that the settings name, and record in ``initial_weights`` how many tensors they
    filled.

    ImageNet weights fill the backbone. COCO weights fill everything but the last layers, which have other
    categories: classifier, class-specific box regressors and mask predictors keep their random initial
    values, as in the released code of BAGS.

    Raises:
        MissingDependencyError: the weights are missing and cannot be downloaded, or cannot be read as data.
        BenchmarkError: the weights fill less than ``LEAST_SHARE``, or belong to models with another input.
    """
    settings = detector.settings
    if settings.init == "none":
        return
    source, state = read_weights(settings)
    if settings.init == "imagenet":
        layout, found = "a trunk", _weights_of_backbone(detector, _with_statistics(state))
    else:
        known = [item for item in LAYOUTS if naming_of(detector) in item.names]
        best = max(known, key=lambda item: fitting(item, detector, state))
        layout, found = best.title, _weights_but_categories(detector, _with_statistics(state), best)
    own = detector.state_dict()
    fitted = {
        name: value for name, value in found.items() if value is not None and value.shape == own[name].shape
    }
    share = len(fitted) / len(found)
    if share < LEAST_SHARE:
        lacking = [name for name in found if name not in fitted]
        raise BenchmarkError(
            f"{settings.init} weights fill {share:.0%} of a {settings.architecture} with {settings.backbone}",
            where=source,
            found=f"read as {layout}: {len(lacking)} are not there, {', '.join(lacking[:3])} among them",
            expected=f"at least {LEAST_SHARE:.0%} of {len(found)} tensors",
            remedy="give weights of the same architecture, or choose another init",
        )
    if any(_OF_DETECTRON2.match(name) for name in state):
        _check_input(state, settings, source)
    detector.load_state_dict(fitted, strict=False)
    detector.initial_weights = {"initial_weights": source, "initial_weights_share": round(share, 4)}


def read_weights(settings: Settings) -> tuple[str, dict[str, Tensor]]:
    """The path or address of the weights, and their tensors under the names of their source.

    Raises:
        MissingDependencyError: the weights are missing and cannot be downloaded.
    """
    file = settings.weights_file
    if file is None:
        return _fetched(settings)
    path = working_root() / file
    if file.endswith(".pkl"):
        return file, read_zoo(path)
    content = read_tensors(
        path,
        lambda found: MissingDependencyError(
            "cannot read the initial weights",
            where=file,
            found=found,
            expected="a file saved by torch.save that holds tensors only",
        ),
    )
    return file, dict(content.get("model", content.get("state_dict", content)))


def _fetched(settings: Settings) -> tuple[str, dict[str, Tensor]]:
    """Weights from torchvision's hub, or from detectron2's model zoo if the backbone takes its input."""
    if settings.init == "imagenet" and settings.pixels == "caffe" and settings.backbone in _MSRA_DEPTHS:
        url = MSRA.format(_MSRA_DEPTHS[settings.backbone])
        path = Path(torch.hub.get_dir()) / "checkpoints" / f"MSRA_{Path(url).name}"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, str(path))
            except (OSError, RuntimeError) as error:
                raise _cannot_fetch(settings, url, error) from None
        return url, read_zoo(path)
    if settings.pixels != "torchvision":
        raise MissingDependencyError(
            f"{settings.init} weights for pixels: {settings.pixels} come from a file, and none is named",
            remedy=f"name it under `weights: {{{settings.init}: FILE}}` of the detector",
        )
    if settings.init == "coco":
        if settings.backbone not in HUB_COCO_BACKBONES or settings.architecture not in _COCO_MODELS:
            raise MissingDependencyError(
                f"torchvision has no COCO weights for {settings.architecture} with {settings.backbone}",
                remedy="name a file of a model zoo under `weights: {coco: FILE}` of the detector, "
                "or use init: imagenet",
            )
        name = _COCO_MODELS[settings.architecture].format(settings.backbone)
        url = get_model_weights(name)["COCO_V1"].url
    else:
        url = get_model_weights(settings.backbone)["IMAGENET1K_V1"].url
    try:
        state = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise _cannot_fetch(settings, url, error) from None
    return url, dict(state)


def _cannot_fetch(settings: Settings, url: str, error: Exception) -> MissingDependencyError:
    return MissingDependencyError(
        f"cannot fetch the {settings.init} weights",
        where=url,
        found=error,
        remedy=f"fetch it elsewhere and name it as `weights: {{{settings.init}: FILE}}` of the detector",
    )


def read_zoo(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a pickle of detectron2's model zoo, read without running code in it.

    Caffe2's names of a ResNet are converted to those of detectron2.

    Raises:
        MissingDependencyError: the file is missing, or holds something other than data.
    """
    try:
        content: Any = read_objects(path, LARGEST_FILE)
    except BenchmarkError as error:
        raise MissingDependencyError(
            "cannot read the weights",
            where=path,
            found=error.found or error.what,
            expected="a file of detectron2's model zoo: arrays by name",
        ) from None
    for key in ("model", "blobs"):  # of detectron2; of Detectron
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    arrays = content if isinstance(content, dict) else {}
    state = {name: torch.tensor(value) for name, value in arrays.items() if isinstance(value, np.ndarray)}
    return {_from_caffe2(name): value for name, value in state.items()} if "conv1_w" in state else state


def _from_caffe2(name: str) -> str:
    """detectron2's name of a tensor of a ResNet; ``res2_0_branch2a_bn_s`` is ``res2.0.conv1.norm.weight``."""
    for theirs, ours in _CAFFE2_STEM.items():
        if name.startswith(theirs) and name.removeprefix(theirs) in _CAFFE2_ENDS:
            return ours + _CAFFE2_ENDS[name.removeprefix(theirs)]
    found = re.fullmatch(r"(res\d)_(\d+)_branch(1|2[abc])(_bn)?_([wsb])", name)
    if found is None:
        return name
    residual, block, layer, norm, end = found.groups()
    return f"{residual}.{block}.{_CAFFE2_LAYERS[layer]}.{'norm.' if norm else ''}{_CAFFE2_ENDS[end]}"


def _check_input(state: Mapping[str, Tensor], settings: Settings, source: str) -> None:
    pixels = key_for_detectron2(state, settings.backbone)
    found = {"pixels": settings.pixels, "stride_in_1x1": settings.stride_in_1x1}
    # MSRA's ResNets have the stride in the 1x1, all others in the 3x3
    expected = {"pixels": pixels, "stride_in_1x1": pixels == "caffe"}
    if found != expected:
        raise BenchmarkError(
            "the initial weights are of models with another input, or their stride in another convolution",
            where=source,
            found=_settings_text(found),
            expected=_settings_text(expected),
            remedy="set both in the preset, or take other weights",
        )


def _settings_text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {str(value).lower()}" for name, value in settings.items())


def _with_statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add statistics to Caffe's batch norms, which are only scale and shift: mean 0, and a variance that with
    epsilon is 1."""
    filled = dict(state)
    for name, value in state.items():
        if name.endswith(".norm.weight"):
            stem = name.removesuffix("weight")
            filled.setdefault(f"{stem}running_mean", torch.zeros_like(value))
            filled.setdefault(f"{stem}running_var", torch.ones_like(value) - 1e-5)
    return filled


def _weights_of_backbone(detector: Detector, state: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """The weight for each tensor of the backbone, except the offsets of deformable convolutions."""
    given = {trunk_name(name): value for name, value in state.items()}
    names = {name: trunk_name(name) for name in detector.state_dict() if not is_counter(name)}
    return {name: given.get(plain) for name, plain in names.items() if plain and "conv_offset" not in plain}


def _weights_but_categories(
    detector: Detector, state: Mapping[str, Tensor], layout: Layout
) -> dict[str, Tensor | None]:
    """The weight for each tensor that does not depend on the categories."""
    given = {layout.current(name): value for name, value in state.items()}
    found: dict[str, Tensor | None] = {}
    for name in detector.state_dict():
        if not (is_counter(name) or is_by_class(name, detector.settings)):
            found[name] = given.get(layout.theirs(name, naming_of(detector)) or "")
    return found
