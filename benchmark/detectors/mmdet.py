"""Two-stage detectors from MMDetection's modules, also hybrid task cascades and deformable convolutions.

Modules are built from MMDetection's own configuration files; elementwise losses are MMDetection's. Only this
file uses mmdet.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers import NormedConv2d
from benchmark.detectors.mmcv_ops import provide_operators
from benchmark.detectors.modules import FrozenBatchNorm, as_list, one_or_list
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.errors import BenchmarkError
from benchmark.recipes.detector_settings import DetectorSettings as Settings

provide_operators()  # mmdet looks for them while it is imported

import mmdet.models
from mmcv.ops import roi_align
from mmdet.models.losses import CrossEntropyLoss, L1Loss, SmoothL1Loss
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.registry import MODELS
from mmengine import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

MMLogger.get_current_instance().setLevel("WARNING")  # else every initialised tensor logs a message

STEM_CHANNELS = 64

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
_CONFIG_FILES = {
    "faster_rcnn": "_base_/models/faster-rcnn_r50_fpn.py",
    "mask_rcnn": "_base_/models/mask-rcnn_r50_fpn.py",
    "cascade_rcnn": "_base_/models/cascade-rcnn_r50_fpn.py",
    "cascade_mask_rcnn": "_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "htc": "htc/htc-without-semantic_r50_fpn_1x_coco.py",
}
_SEMANTIC_CONFIG = "htc/htc_r50_fpn_1x_coco.py"

_BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18": {"type": "ResNet", "depth": 18},
    "resnet50": {"type": "ResNet", "depth": 50},
    "resnet101": {"type": "ResNet", "depth": 101},
    "resnext101_64x4d": {"type": "ResNeXt", "depth": 101, "groups": 64, "base_width": 4},
}
_NORMS: dict[str, dict[str, Any]] = {
    # has no parameters, so it takes less memory than MMDetection's norm with frozen ones
    "frozen": {"norm_cfg": {"type": FrozenBatchNorm}, "norm_eval": True},
    "frozen_statistics": {"norm_cfg": {"type": "BN", "requires_grad": True}, "norm_eval": True},
    "batch": {"norm_cfg": {"type": "BN", "requires_grad": True}, "norm_eval": False},
}
_DEFORMABLE = {
    "dcn": {"type": "DCN", "deform_groups": 1, "fallback_on_stride": False},
    "stage_with_dcn": (False, True, True, True),
}


def model_config(settings: Settings, num_classes: int) -> ConfigDict:
    """MMDetection's configuration of an architecture, with the project's sizes in it."""
    file = _SEMANTIC_CONFIG if settings.semantic_branch else _CONFIG_FILES[settings.architecture]
    model = Config.fromfile(CONFIGS / file).model
    base_channels = max(8, round(STEM_CHANNELS * settings.width))
    model.backbone.update(
        **_BACKBONES[settings.backbone],
        **_NORMS[settings.norm],
        **(_DEFORMABLE if settings.deformable else {}),
        frozen_stages=4 - settings.trainable_layers,
        base_channels=base_channels,
        stem_channels=STEM_CHANNELS,
        style="caffe" if settings.stride_in_1x1 else "pytorch",
        zero_init_residual=False,  # as in the other frameworks
        init_cfg=None,
    )
    widening = 1 if settings.backbone == "resnet18" else 4
    channels = settings.fpn_channels
    model.neck.update(
        in_channels=[base_channels * widening * 2**level for level in range(4)], out_channels=channels
    )
    model.rpn_head.update(in_channels=channels, feat_channels=channels)
    for head in as_list(model.roi_head.bbox_head):
        head.update(
            in_channels=channels,
            fc_out_channels=settings.box_head_width,
            num_classes=num_classes,
            reg_class_agnostic=settings.class_agnostic_boxes,
        )
    if settings.architecture == "cascade_mask_rcnn":  # MMDetection repeats it too
        model.roi_head.mask_head = [
            deepcopy(model.roi_head.mask_head) for _ in range(settings.box_head_count)
        ]
    for head in as_list(model.roi_head.mask_head) if settings.masks else []:
        head.update(
            num_convs=settings.mask_layers,
            in_channels=channels,
            conv_out_channels=settings.mask_channels,
            num_classes=num_classes,
            class_agnostic=settings.class_agnostic_masks,
        )
        if settings.mask_predictor == "normed":
            head.predictor_cfg = ConfigDict(type=NormedConv2d, temperature=settings.mask_temperature)
    if settings.semantic_branch:
        model.roi_head.semantic_head.update(in_channels=channels, conv_out_channels=channels)
    return model


class MMDetDetector(TwoStageDetector):
    """Parameters are named as in MMDetection, except those of the classifiers."""

    backend = "mmdet"
    backbone: Any
    neck: Any
    rpn_head: Any
    roi_head: Any

    def build(self) -> None:
        """Refuses cascades of detectron2's kind with masks."""
        settings = self.settings
        if settings.cascade == "detectron2" and settings.architecture == "cascade_mask_rcnn":
            raise BenchmarkError(
                "cascades of back end 'mmdet' have a mask head for each box head",
                found="cascade: detectron2",
                expected="cascade: mmdet",
                remedy="set it in the preset, or take the detector from back end detectron2",
            )
        config = model_config(settings, self.num_classes)
        heads = config.roi_head
        with DefaultScope.overwrite_default_scope("mmdet"):
            self.backbone, self.neck = MODELS.build(config.backbone), MODELS.build(config.neck)
            self.rpn_head = MODELS.build(config.rpn_head)
            self.roi_head = nn.Module()
            boxes = [
                Shared2FCBBoxHead(with_cls=False, **_arguments(head)) for head in as_list(heads.bbox_head)
            ]
            self.roi_head.bbox_head = one_or_list(boxes)
            if settings.masks:
                self.roi_head.mask_head = one_or_list(
                    [MODELS.build(head) for head in as_list(heads.mask_head)]
                )
            if settings.semantic_branch:
                self.roi_head.semantic_head = MODELS.build(heads.semantic_head)
                self.roi_head.semantic_head.init_weights()
            self.backbone.init_weights()

    @property
    def box_head_layers(self) -> list[list[nn.Linear]]:
        """The two layers of each box head."""
        return [list(head.shared_fcs) for head in as_list(self.roi_head.bbox_head)]

    @property
    def pyramid_modules(self) -> list[nn.Module]:
        """MMDetection's neck."""
        return [self.neck]

    @property
    def proposal_head(self) -> nn.Module:
        """MMDetection's."""
        return cast(nn.Module, self.rpn_head)

    @property
    def box_regressors(self) -> list[nn.Linear]:
        """MMDetection's."""
        return [head.fc_reg for head in as_list(self.roi_head.bbox_head)]

    @property
    def mask_heads(self) -> list[nn.Module]:
        """One for each box head."""
        return as_list(self.roi_head.mask_head) if self.settings.masks else []

    @property
    def mask_predictors(self) -> list[nn.Module]:
        """The last layers."""
        return [head.conv_logits for head in as_list(self.mask_heads)]

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Five levels."""
        return list(self.neck(self.backbone(images)))

    def semantic(self, levels: list[Tensor]) -> tuple[Tensor, Tensor] | None:
        """The outputs of MMDetection's semantic head."""
        if not self.settings.semantic_branch:
            return None
        scores, features = self.roi_head.semantic_head(levels)
        return scores, features

    def proposal_outputs(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs of MMDetection's head."""
        objectness, deltas = self.rpn_head(levels)
        return list(objectness), list(deltas)

    def mask_features(self, head: int, pooled: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output of MMDetection's layers; an HTC passes on the features before the transposed
        convolution."""
        module: Any = self.mask_heads[head]
        if before is not None:
            pooled = pooled + module.conv_res(before)
        for layer in module.convs:
            pooled = layer(pooled)
        return F.relu(module.upsample(pooled)), pooled

    @staticmethod
    def roi_align(
        features: Tensor, rois: Tensor, side: int, scale: float, samples: int, aligned: bool
    ) -> Tensor:
        """mmcv's."""
        return cast(Tensor, roi_align(features, rois, (side, side), scale, samples, "avg", aligned))

    def box_losses(self, deltas: Tensor, goals: Tensor, beta: float) -> Tensor:
        """MMDetection's."""
        loss = SmoothL1Loss(beta, reduction="none") if beta > 0 else L1Loss(reduction="none")
        return cast(Tensor, loss(deltas, goals)) if len(goals) else deltas

    def binary_losses(self, logits: Tensor, goals: Tensor) -> Tensor:
        """MMDetection's."""
        loss = CrossEntropyLoss(use_sigmoid=True, reduction="none")
        return cast(Tensor, loss(logits.flatten(), goals.flatten())).view_as(logits)

    def stuff_losses(self, scores: Tensor, categories: Tensor) -> Tensor:
        """MMDetection's, of weight 0.2."""
        criterion = self.roi_head.semantic_head.criterion
        return cast(Tensor, criterion(scores, categories, reduction_override="none"))


def _arguments(config: ConfigDict) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "type"}
