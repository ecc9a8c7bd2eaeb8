"""Two-stage detectors from torchvision's modules: ResNets, feature pyramid and heads."""

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from benchmark.classifiers import NormedConv2d
from benchmark.detectors.interface import POOLED_SIDE
from benchmark.detectors.modules import FrozenBatchNorm, FrozenStatisticsNorm, as_list, one_or_list
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.recipes.detector_settings import DetectorSettings as Settings

_RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int], dict[str, int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2], {}),
    "resnet50": (Bottleneck, [3, 4, 6, 3], {}),
    "resnet101": (Bottleneck, [3, 4, 23, 3], {}),
    "resnext101_64x4d": (Bottleneck, [3, 4, 23, 3], {"groups": 64, "width_per_group": 4}),
}
_NORMS = {
    "frozen": FrozenBatchNorm,
    "frozen_statistics": FrozenStatisticsNorm,
    "batch": nn.BatchNorm2d,
}


class _NarrowResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ResNet with the channels of its residual layers multiplied by a factor."""

    def __init__(self, *args: object, width: float, **kwargs: object) -> None:
        self._width_factor = width
        super().__init__(*args, **kwargs)

    def _make_layer(self, block: object, planes: int, *args: object, **kwargs: object) -> nn.Sequential:
        return super()._make_layer(block, max(8, round(planes * self._width_factor)), *args, **kwargs)


def _backbone(settings: Settings) -> BackboneWithFPN:
    block, lengths, grouping = _RESNETS[settings.backbone]
    body = _NarrowResNet(block, lengths, norm_layer=_NORMS[settings.norm], width=settings.width, **grouping)
    layers = (body.layer1, body.layer2, body.layer3, body.layer4)
    if settings.stride_in_1x1:
        for first, *_ in layers[1:]:
            first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    lasts = [layer[-1].bn2 if block is BasicBlock else layer[-1].bn3 for layer in layers]
    channels = [norm.weight.numel() for norm in lasts]
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][: settings.trainable_layers]
    if settings.trainable_layers == 5:
        trained.append("bn1")
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(any(name.startswith(layer) for layer in trained))
    return_layers = {f"layer{level + 1}": str(level) for level in range(4)}
    return BackboneWithFPN(
        body, return_layers, channels, settings.fpn_channels, extra_blocks=LastLevelMaxPool()
    )


class TorchvisionDetector(TwoStageDetector):
    """Parameters are named as in torchvision's Faster and Mask R-CNN, except those of classifiers and box
    regressors; in cascades the names have the number of the head."""

    backend = "torchvision"
    backbone: Any
    rpn: Any
    roi_heads: Any

    def build(self) -> None:
        """Refuses hybrid task cascades and deformable convolutions."""
        settings = self.settings
        self.refuse_hybrid_and_deformable("neither hybrid task cascades nor deformable convolutions")
        channels, width, count = settings.fpn_channels, settings.box_head_width, settings.box_head_count
        self.backbone = _backbone(settings)
        self.rpn, self.roi_heads = nn.Module(), nn.Module()
        self.rpn.head = RPNHead(channels, 3)
        heads = [TwoMLPHead(channels * POOLED_SIDE**2, width) for _ in range(count)]
        self.roi_heads.box_head = one_or_list(heads)
        self.roi_heads.box_regressor = one_or_list(
            [nn.Linear(width, self.delta_columns) for _ in range(count)]
        )
        if settings.masks:
            layers = [settings.mask_channels] * settings.mask_layers
            self.roi_heads.mask_head = one_or_list(
                [MaskRCNNHeads(channels, layers, 1) for _ in range(self.mask_head_count)]
            )
            self.roi_heads.mask_predictor = one_or_list(
                [self._mask_predictor() for _ in range(self.mask_head_count)]
            )

    def _mask_predictor(self) -> MaskRCNNPredictor:
        channels = self.settings.mask_channels
        masks = 1 if self.settings.class_agnostic_masks else self.num_classes
        predictor = MaskRCNNPredictor(channels, channels, masks)
        if self.settings.mask_predictor == "normed":
            predictor.mask_fcn_logits = NormedConv2d(
                channels, masks, temperature=self.settings.mask_temperature
            )
        return predictor

    @property
    def box_head_layers(self) -> list[list[nn.Linear]]:
        """The two layers of each box head."""
        return [[head.fc6, head.fc7] for head in as_list(self.roi_heads.box_head)]

    @property
    def pyramid_modules(self) -> list[nn.Module]:
        """torchvision's feature pyramid."""
        return [self.backbone.fpn]

    @property
    def proposal_head(self) -> nn.Module:
        """torchvision's."""
        return cast(nn.Module, self.rpn.head)

    @property
    def box_regressors(self) -> list[nn.Linear]:
        """Under a name of our own: torchvision has them in the module of its classifier."""
        return as_list(self.roi_heads.box_regressor)

    @property
    def mask_heads(self) -> list[nn.Module]:
        """The convolutions; the transposed one is in the predictor."""
        if not self.settings.masks:
            return []
        pairs = zip(as_list(self.roi_heads.mask_head), as_list(self.roi_heads.mask_predictor), strict=True)
        return [nn.ModuleList(pair) for pair in pairs]

    @property
    def mask_predictors(self) -> list[nn.Module]:
        """The last layers."""
        if not self.settings.masks:
            return []
        return [predictor.mask_fcn_logits for predictor in as_list(self.roi_heads.mask_predictor)]

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Five levels."""
        return list(self.backbone(images).values())

    def proposal_outputs(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs of torchvision's head."""
        objectness, deltas = self.rpn.head(levels)
        return objectness, deltas

    def mask_features(self, head: int, pooled: Tensor, before: Tensor | None) -> tuple[Tensor, None]:
        """The output of the transposed convolution."""
        predictor = as_list(self.roi_heads.mask_predictor)[head]
        return F.relu(predictor.conv5_mask(as_list(self.roi_heads.mask_head)[head](pooled))), None
