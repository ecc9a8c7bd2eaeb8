"""Weights that a detector starts from: torchvision's, from its hub, or a local file."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from benchmark.detectors.checkpoints import why_unreadable
from benchmark.errors import BenchmarkError, MissingDependencyError
from benchmark.recipes.detector_settings import HUB_COCO_BACKBONES
from benchmark.recipes.detector_settings import DetectorSettings as Settings
from benchmark.statistics.unpickling import read_objects

LARGEST_FILE = 2 * 2**30  # bytes of weights
_COCO_MODELS = {"faster_rcnn": "fasterrcnn_{}_fpn", "mask_rcnn": "maskrcnn_{}_fpn"}


def read_weights(settings: Settings, coco_from: str = "torchvision") -> dict[str, Tensor]:
    """The tensors by the names of their source: the file that the settings name, or torchvision's hub.

    ``coco_from`` is the framework whose COCO weights fit; those of others than torchvision are files.

    Raises:
        MissingDependencyError: not at hand and cannot be fetched.
    """
    if settings.weights is not None:
        try:
            state = torch.load(Path(settings.weights), map_location="cpu", weights_only=True)
        except Exception as error:
            raise MissingDependencyError(
                "cannot read the initial weights",
                where=settings.weights,
                found=why_unreadable(error),
                expected="a file saved by torch.save that holds tensors only",
            ) from None
        return dict(state.get("model", state.get("state_dict", state)))
    if settings.init == "coco":
        if coco_from != "torchvision":
            raise MissingDependencyError(
                f"COCO weights of a {settings.architecture} in {coco_from} come from a file, "
                "and none is named",
                remedy=f"fetch a model of {coco_from}'s model zoo and name it as `weights:` of the detector",
            )
        if settings.backbone not in HUB_COCO_BACKBONES or settings.architecture not in _COCO_MODELS:
            raise MissingDependencyError(
                f"torchvision has no COCO weights for {settings.architecture} with {settings.backbone}",
                remedy="give a local file as `weights:` of the detector, or use init: imagenet",
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
        raise MissingDependencyError(
            f"cannot fetch the {settings.init} weights",
            where=url,
            found=error,
            remedy="fetch that file elsewhere and name it as `weights:` of the detector",
        ) from None
    return dict(state)


def read_zoo(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors by name and the author of a pickle of detectron2's model zoo, without running anything in it.

    Raises:
        MissingDependencyError: the file is not there, or holds anything but data.
    """
    try:
        content = read_objects(path, LARGEST_FILE)
    except BenchmarkError as error:
        raise MissingDependencyError(
            "cannot read the weights",
            where=path,
            found=error.found or error.what,
            expected="a file of detectron2's model zoo: arrays by name",
        ) from None
    author = str(content.get("__author__", "")) if isinstance(content, dict) else ""
    for key in ("model", "blobs"):  # of detectron2; of Detectron
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    arrays = content if isinstance(content, dict) else {}
    return {
        name: torch.tensor(value) for name, value in arrays.items() if isinstance(value, np.ndarray)
    }, author


def copy_fitting(detector: nn.Module, state: dict[str, Tensor], settings: Settings, layout: str) -> None:
    """Copy every tensor whose name and shape match; the rest stays as initialised.

    This is the rule of the released BAGS code: of a COCO model, the classifier, the class-specific regressor
    and mask channels stay random.

    Raises:
        BenchmarkError: not one tensor fits; ``layout`` says whose names are expected.
    """
    own = detector.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise BenchmarkError(
            f"{settings.init} weights fit no tensor of a {settings.architecture} with {settings.backbone}",
            where=settings.weights,
            remedy=f"give weights of the same architecture in {layout} layout",
        )
    detector.load_state_dict(fitting, strict=False)
