"""Order and scale of the input channels that weights are made for, folded into the first convolution."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.detectors.checkpoints import CheckpointError
from benchmark.detectors.parts import IMAGE_MEAN, IMAGE_STD

MSRA_STD = (1.0, 1.0, 1.0)  # of the ResNets that detectron2 converted from Caffe
FACEBOOK_STD = (57.375, 57.12, 58.395)  # of the ResNeXts that detectron2 converted from Caffe2; B, G, R
OURS = 255 * torch.tensor(IMAGE_MEAN, dtype=torch.float64)  # R, G, B; pixels from 0 to 255


@dataclass(frozen=True)
class Colours:
    """From channels and pixel values of detectron2's making to RGB with the project's mean and deviation.

    ``scale`` (R, G, B) is theirs over ours, after subtraction of the mean; ``stride_in_1x1`` is what models
    for such an input have; ``what`` says the change in words.
    """

    reverse: bool = False
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    stride_in_1x1: bool = False
    what: str = ""

    @classmethod
    def told_by(cls, mean: Tensor, std: Tensor) -> "Colours":
        """From ``pixel_mean`` and ``pixel_std`` (3 numbers each), which are in the order of the channels.

        Raises:
            CheckpointError: neither RGB nor BGR with the usual mean, or deviations that are not positive.
        """
        mean, std = mean.double().flatten(), std.double().flatten()
        reverse = torch.allclose(mean, OURS.flip(0), atol=1e-3)
        if not (reverse or torch.allclose(mean, OURS, atol=1e-3)) or len(std) != 3 or bool((std <= 0).any()):
            raise CheckpointError(
                "the input is normalised in a way that no convolution can make up for at the image's border",
                found=f"pixel_mean {mean.tolist()}, pixel_std {std.tolist()}",
                expected=f"pixel_mean {[round(item, 3) for item in OURS.tolist()]} or its reverse",
            )
        rgb = std.flip(0) if reverse else std
        scale = (255 * torch.tensor(IMAGE_STD, dtype=torch.float64) / rgb).tolist()
        words = ["channels from BGR to RGB"] * reverse
        if any(abs(item - 1) > 1e-6 for item in scale):
            words.append("scaled by the project's standard deviation of the input")
        # the models with std 1 are the converted MSRA ResNets, all others have the stride in the 3x3
        return cls(reverse, tuple(scale), bool((std == 1).all()), ", ".join(words))

    @classmethod
    def of_detectron2(cls, weights: Mapping[str, Tensor], backbone: str) -> "Colours":
        """Of a file of detectron2's, by its ``pixel_mean`` and ``pixel_std`` (see ``told_by``).

        Few of its files have them: its configuration knows. They are then read as those of the models that
        detectron2 has converted itself.
        """
        if "pixel_mean" in weights and "pixel_std" in weights:
            return cls.told_by(weights["pixel_mean"], weights["pixel_std"])
        std = FACEBOOK_STD if backbone.startswith("resnext") else MSRA_STD
        return cls.told_by(OURS.flip(0), torch.tensor(std))

    def apply(self, weight: Tensor) -> Tensor:
        """The first convolution's weight (N, 3, height, width) for the project's input."""
        ordered = weight.flip(1) if self.reverse else weight
        scale = torch.tensor(self.scale, dtype=torch.float64)
        return (ordered.double() * scale[:, None, None]).to(weight.dtype)
