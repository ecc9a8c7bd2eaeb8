"""Faster, Mask and Cascade R-CNN from detectron2's modules; nothing of detectron2 leaves this file."""

import logging
from typing import Any, cast

from detectron2.layers import ROIAlign, ShapeSpec
from detectron2.modeling import FPN, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn

from benchmark.classifiers import NormedConv2d
from benchmark.detectors.interface import POOLED_SIDE
from benchmark.detectors.modules import FrozenBatchNorm, FrozenStatisticsNorm, as_list, one_or_list
from benchmark.detectors.two_stage import MASK_SIDE, TwoStageDetector
from benchmark.recipes.detector_settings import DetectorSettings as Settings

# silences a warning of the first pooling, about a PyTorch function with which detectron2 detects tracing
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

STEM_CHANNELS = 64

# block, blocks of each residual layer, groups, and channels of a group in the first layer
_RESNETS: dict[str, tuple[type[nn.Module], tuple[int, ...], int, int]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 64),
    "resnet50": (BottleneckBlock, (3, 4, 6, 3), 1, 64),
    "resnet101": (BottleneckBlock, (3, 4, 23, 3), 1, 64),
    "resnext101_64x4d": (BottleneckBlock, (3, 4, 23, 3), 64, 4),
}
_NORMS: dict[str, Any] = {
    "frozen": FrozenBatchNorm,
    "frozen_statistics": FrozenStatisticsNorm,
    "batch": "BN",
}


def trunk(settings: Settings) -> ResNet:
    """The residual network, frozen up to the layers that train."""
    block, lengths, groups, width = _RESNETS[settings.backbone]
    norm = _NORMS[settings.norm]
    base = max(8, round(STEM_CHANNELS * settings.width))
    layers, channels = [], STEM_CHANNELS
    for level, length in enumerate(lengths):
        planes = base * 2**level
        form: dict[str, Any] = {}
        if block is BottleneckBlock:
            inner = planes * width // STEM_CHANNELS * groups
            form = {
                "bottleneck_channels": inner,
                "num_groups": groups,
                "stride_in_1x1": settings.stride_in_1x1,
            }
        out = planes if block is BasicBlock else 4 * planes
        strides = [1 if level == 0 else 2] + [1] * (length - 1)
        layers.append(
            ResNet.make_stage(
                block,
                length,
                in_channels=channels,
                out_channels=out,
                stride_per_block=strides,
                norm=norm,
                **form,
            )
        )
        channels = out
    names = [f"res{level + 2}" for level in range(len(lengths))]
    stem = BasicStem(out_channels=STEM_CHANNELS, norm=norm)
    return ResNet(stem, layers, out_features=names, freeze_at=5 - settings.trainable_layers)


class Detectron2Detector(TwoStageDetector):
    """Parameters are named as in detectron2, except those of the classifiers."""

    backend = "detectron2"
    backbone: Any
    proposal_generator: Any
    roi_heads: Any

    def build(self) -> None:
        """Refuses hybrid task cascades, and deformable convolutions, which detectron2 supports only on
        GPUs."""
        settings = self.settings
        self.refuse_hybrid_and_deformable("no hybrid task cascade, and deformable convolutions for GPUs only")
        channels, width, count = settings.fpn_channels, settings.box_head_width, settings.box_head_count
        body = trunk(settings)
        self.backbone = FPN(body, list(body.output_shape()), channels, top_block=LastLevelMaxPool())
        self.proposal_generator, self.roi_heads = nn.Module(), nn.Module()
        self.proposal_generator.rpn_head = StandardRPNHead(in_channels=channels, num_anchors=3)
        shape = ShapeSpec(channels=channels, height=POOLED_SIDE, width=POOLED_SIDE)
        heads = [FastRCNNConvFCHead(shape, conv_dims=[], fc_dims=[width] * 2) for _ in range(count)]
        self.roi_heads.box_head = one_or_list(heads)
        predictors = [
            nn.ModuleDict({"bbox_pred": nn.Linear(width, self.delta_columns)}) for _ in range(count)
        ]
        self.roi_heads.box_predictor = one_or_list(predictors)
        if settings.masks:
            self.roi_heads.mask_head = one_or_list([self._mask_head() for _ in range(self.mask_head_count)])

    def _mask_head(self) -> MaskRCNNConvUpsampleHead:
        settings = self.settings
        masks = 1 if settings.class_agnostic_masks else self.num_classes
        head = MaskRCNNConvUpsampleHead(
            ShapeSpec(channels=settings.fpn_channels, height=MASK_SIDE, width=MASK_SIDE),
            num_classes=masks,
            conv_dims=[settings.mask_channels] * (settings.mask_layers + 1),
        )
        if settings.mask_predictor == "normed":
            head.predictor = NormedConv2d(
                settings.mask_channels, masks, temperature=settings.mask_temperature
            )
        return head

    @property
    def box_head_layers(self) -> list[list[nn.Linear]]:
        """The two layers of each box head."""
        return [[head.fc1, head.fc2] for head in as_list(self.roi_heads.box_head)]

    @property
    def pyramid_modules(self) -> list[nn.Module]:
        """The pyramid without the backbone, which is part of it in detectron2."""
        return [module for name, module in self.backbone.named_children() if name != "bottom_up"]

    @property
    def proposal_head(self) -> nn.Module:
        """detectron2's."""
        return cast(nn.Module, self.proposal_generator.rpn_head)

    @property
    def box_regressors(self) -> list[nn.Linear]:
        """Under detectron2's name."""
        return [predictor["bbox_pred"] for predictor in as_list(self.roi_heads.box_predictor)]

    @property
    def mask_heads(self) -> list[nn.Module]:
        """One for each box head, or one for all."""
        return as_list(self.roi_heads.mask_head) if self.settings.masks else []

    @property
    def mask_predictors(self) -> list[nn.Module]:
        """The last layers."""
        return [cast(nn.Module, head.predictor) for head in self.mask_heads]

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Five levels."""
        return list(self.backbone(images).values())

    def proposal_outputs(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs of detectron2's head."""
        objectness, deltas = self.proposal_head(levels)
        return objectness, deltas

    def mask_features(self, head: int, pooled: Tensor, before: Tensor | None) -> tuple[Tensor, None]:
        """The output of all layers but the last."""
        for name, layer in self.mask_heads[head].named_children():
            if name != "predictor":
                pooled = layer(pooled)
        return pooled, None

    @staticmethod
    def roi_align(
        features: Tensor, rois: Tensor, side: int, scale: float, samples: int, aligned: bool
    ) -> Tensor:
        """detectron2's."""
        return cast(Tensor, ROIAlign((side, side), scale, samples, aligned)(features, rois))

    def box_losses(self, deltas: Tensor, goals: Tensor, beta: float) -> Tensor:
        """detectron2's."""
        return cast(Tensor, smooth_l1_loss(deltas, goals, beta, reduction="none"))
