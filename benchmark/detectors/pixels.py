"""The input of backbones: order, mean and standard deviation of the colour channels."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.detectors.checkpoints import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # R, G, B; pixels from 0 to 1


@dataclass(frozen=True)
class Pixels:
    """``std`` is for R, G, B with pixels from 0 to 1; with ``bgr`` the backbone takes blue first."""

    std: tuple[float, float, float]
    bgr: bool = False

    def normalised(self, image: Tensor) -> Tensor:
        """The input of the backbone for an image (3, H, W), RGB in [0, 1]."""
        mean, std = (image.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, self.std))
        found = (image - mean) / std
        return found.flip(0) if self.bgr else found


PIXELS = {
    "torchvision": Pixels((0.229, 0.224, 0.225)),
    "caffe": Pixels((1 / 255, 1 / 255, 1 / 255), bgr=True),
    "caffe2": Pixels((58.395 / 255, 57.12 / 255, 57.375 / 255), bgr=True),
}
"""By ``pixels`` of the settings."""


def key_of_normalisation(mean: Tensor, std: Tensor) -> str:
    """Key of ``PIXELS`` for ``pixel_mean`` and ``pixel_std`` of detectron2, 3 numbers each, pixels up to 255.

    Raises:
        CheckpointError: no key has this mean and deviation.
    """
    mean, std = mean.double().flatten() / 255, std.double().flatten() / 255
    for name, pixels in PIXELS.items():
        expected = torch.tensor([IMAGENET_MEAN, pixels.std], dtype=torch.float64)
        if pixels.bgr:
            expected = expected.flip(1)
        if mean.shape == std.shape == (3,) and torch.allclose(torch.stack([mean, std]), expected, atol=1e-5):
            return name
    raise CheckpointError(
        "the weights are of models whose input is normalised in another way",
        found=f"pixel_mean {(255 * mean).tolist()}, pixel_std {(255 * std).tolist()}",
        expected=f"those of pixels: {', '.join(PIXELS)}",
    )


def key_for_detectron2(weights: Mapping[str, Tensor], backbone: str) -> str:
    """Key of ``PIXELS`` for a file of detectron2's.

    Few files contain the normalisation, because detectron2 keeps it in the configuration. The others are
    taken as models that detectron2 has converted: ResNets of MSRA, ResNeXts of Facebook.
    """
    if "pixel_mean" in weights and "pixel_std" in weights:
        return key_of_normalisation(weights["pixel_mean"], weights["pixel_std"])
    return "caffe2" if backbone.startswith("resnext") else "caffe"
