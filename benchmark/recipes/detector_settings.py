"""Settings of a detector, in groups by what reads them."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from benchmark.recipes.strict import Strict

HUB_COCO_BACKBONES = ("resnet50",)
"""Backbones of the Faster and Mask R-CNN for which torchvision publishes COCO weights."""

_MMDET: dict[str, Any] = {
    "rpn_loss_divisor": "drawn",
    "rpn_low_quality_iou": 0.3,
    "roi_low_quality_iou": 0.5,
    "low_quality_targets": "own",
    "anchors_used": "unpadded",
    "box_head_init": "xavier",
    "fpn_init": "xavier",
    "mask_predictor_init": "kaiming",
}
FRAMEWORKS: Mapping[str, Mapping[str, Any]] = {
    "detectron2": {},
    "mmdet": _MMDET,
    "mmdet_v1": {
        **_MMDET,
        "coordinates": "mmdet_v1",
        "anchors_used": "inside",
        "rpn_train_proposals": 2000,
        "rpn_smooth_l1_beta": 1 / 9,
        "smooth_l1_beta": 1.0,
        "mask_pasting": "whole_pixels",
    },
    "torchvision": {
        "coordinates": "torchvision",
        "rpn_train_proposals": 2000,
        "rpn_smooth_l1_beta": 1 / 9,
        "rpn_loss_divisor": "drawn",
        "smooth_l1_beta": 1 / 9,
        "box_head_init": "uniform",
        "box_regressor_init": "uniform",
        "mask_predictor_init": "kaiming",
    },
}
"""What a framework's Mask R-CNN has otherwise than detectron2's (commit 02b5c4e), whose values are the
defaults of the settings: of MMDetection 2.21 and later, of MMDetection 1.0, and of torchvision 0.26.
``mask_targets`` is not of a framework: each had several ways. Only torchvision's way to paste masks, into
boxes cut to whole pixels plus one, is nobody's setting."""


MaskTargets = Literal["coverage", "polygons", "bitmaps", "bitmaps_mmdet_v1"]
Pasting = Literal["grid", "whole_pixels"]


class ModelSettings(Strict):
    """What a trained detector is: every step that builds it reads these."""

    framework: Literal["detectron2", "mmdet", "mmdet_v1", "torchvision"] = Field(
        "detectron2",
        description="whose values the settings have that nothing else sets: detectron2's, MMDetection's from "
        "2 on, MMDetection 1's or torchvision's; any back end follows them",
    )
    architecture: Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "htc"] = Field(
        description="boxes, or boxes and masks, from one stage or from a cascade of three"
    )
    cascade: Literal["mmdet", "detectron2"] = Field(
        "mmdet",
        description="how the stages of a cascade work together. mmdet: each draws RoIs anew, has a mask head "
        "of its own and less weight than the one before; logits are averaged. detectron2: RoIs of the first "
        "go through all, which weigh alike and share a mask head; scores are averaged",
    )
    backbone: Literal["resnet18", "resnet50", "resnet101", "resnext101_64x4d"] = Field(description="trunk")
    width: float = Field(
        1.0, gt=0, le=1, description="channel multiplier of the residual stages (resnet18 only)"
    )
    deformable: bool = Field(
        False, description="deformable 3x3 convolutions in the upper three residual stages (not resnet18)"
    )
    norm: Literal["frozen", "frozen_statistics", "batch"] = Field(
        "frozen",
        description="batch norm: all frozen, scale and shift trained on frozen statistics, or all trained",
    )
    fpn_channels: int = Field(256, gt=0, description="channels of the feature pyramid")
    box_head_width: int = Field(1024, gt=0, description="width of the two fully connected layers")
    mask_channels: int = Field(256, gt=0, description="channels of the mask head")
    mask_layers: int = Field(4, gt=0, description="convolutions of the mask head")
    class_agnostic_boxes: bool = Field(False, description="one box regressor for all categories")
    class_agnostic_masks: bool = Field(False, description="one mask channel for all categories")
    mask_predictor: Literal["plain", "normed"] = Field(
        "plain", description="last mask layer: 1x1 convolution, or scaled cosines of features and filters"
    )
    mask_temperature: float = Field(20.0, gt=0, description="scale of the cosines of a normed mask predictor")
    semantic_branch: bool = Field(
        False, description="htc: also segment stuff; needs the stuff maps of the training images"
    )
    anchor_sizes: list[int] = Field(
        [32, 64, 128, 256, 512], min_length=5, max_length=5, description="pixels, per level"
    )
    long_edge: int = Field(1333, gt=0, description="upper bound of the long side, pixels")
    coordinates: Literal["torchvision", "mmdet_v1", "aligned"] = Field(
        "aligned",
        description="where anchors, RoI samples and pixels lie: as in torchvision; as in mmdetection 1; or "
        "aligned, as in detectron2 and in mmdetection from 2 on",
    )
    stride_in_1x1: bool = Field(
        False,
        description="a bottleneck halves the size in its first convolution, as in the ResNets of Caffe and "
        "MSRA, instead of in its 3x3",
    )
    pixels: Literal["torchvision", "caffe", "caffe2"] = Field(
        "torchvision",
        description="what the trunk takes: RGB with torchvision's mean and deviation; BGR, 0 to 255, minus "
        "the mean, as the ResNets of MSRA; or that with a deviation too, as Facebook's ResNeXts",
    )


class InitialWeights(Strict):
    """What a training starts from: read by the first stage only."""

    init: Literal["none", "imagenet", "coco"] = Field("imagenet", description="initial weights")
    weights: dict[Literal["imagenet", "coco"], str] = Field(
        {}, description="local file for each init that has one; others are fetched where somebody has them"
    )
    box_head_init: Literal["uniform", "xavier", "caffe2"] = Field(
        "caffe2",
        description="two fully connected layers: PyTorch's default, Xavier's or Caffe2's uniform numbers",
    )
    fpn_init: Literal["xavier", "caffe2"] = Field(
        "caffe2", description="feature pyramid: Xavier's or Caffe2's uniform numbers"
    )
    box_regressor_init: Literal["normal", "uniform"] = Field(
        "normal",
        description="weights N(0, 0.001) and bias 0, or PyTorch's default for a linear layer",
    )
    mask_predictor_init: Literal["normal", "kaiming"] = Field(
        "normal", description="last mask layer: N(0, 0.001), or Kaiming's normal numbers as the layers before"
    )

    @property
    def weights_file(self) -> str | None:
        """The local file with the weights of ``init``."""
        return None if self.init == "none" else self.weights.get(self.init)


class TrainingSettings(Strict):
    """What only trainings read."""

    trainable_layers: int = Field(
        3, ge=0, le=5, description="residual stages that train, counted from the top"
    )
    anchors_used: Literal["all", "unpadded", "inside"] = Field(
        "all",
        description="anchors that learn: all; not those in the padding between an image's own size, rounded "
        "up to 32, and that of its batch; or only those that also lie inside the image",
    )
    rpn_samples: int = Field(256, gt=0, description="anchors sampled per image")
    rpn_low_quality_iou: float | None = Field(
        0.0,
        ge=0,
        le=1,
        description="IoU from which the anchors that overlap an object most are foreground, below 0.7 too; "
        "null: never",
    )
    rpn_smooth_l1_beta: float = Field(
        0.0, ge=0, description="transition point of the proposal network's box loss; 0 is L1"
    )
    rpn_loss_divisor: Literal["nominal", "drawn"] = Field(
        "nominal",
        description="what divides the proposal network's losses: rpn_samples an image, or the anchors drawn",
    )
    rpn_train_candidates: int = Field(
        2000, gt=0, description="proposals of a level that go into suppression in training"
    )
    rpn_train_proposals: int = Field(
        1000, gt=0, description="proposals of an image that are kept after suppression in training"
    )
    roi_samples: int = Field(512, gt=0, description="RoIs sampled per image")
    roi_positive_fraction: float = Field(0.25, gt=0, le=1, description="at most this fraction is foreground")
    roi_background_min_iou: float = Field(
        0.0, ge=0, lt=0.5, description="background RoIs overlap some ground truth at least so much"
    )
    roi_low_quality_iou: float | None = Field(
        None,
        ge=0,
        le=1,
        description="IoU, and at least the stage's, from which the RoI that overlaps an object most is that "
        "object's, though it overlaps another more; null: never",
    )
    low_quality_targets: Literal["best", "own"] = Field(
        "best",
        description="an anchor that is foreground because an object has no better one belongs to the object "
        "that it overlaps best, or to that one",
    )
    mask_targets: MaskTargets = Field(
        "coverage",
        description="what masks learn in each cell of a RoI: the share that the object covers; whether the "
        "cell is inside its polygons, as in detectron2; or its bitmap resized, as in mmdetection 2 or 1",
    )
    smooth_l1_beta: float = Field(0.0, ge=0, description="transition point of the box loss; 0 is L1")
    train_short_edges: list[int] = Field(
        [800], min_length=1, description="short side is drawn from these, pixels"
    )
    short_edge_sampling: Literal["choice", "range"] = Field(
        "choice", description="one of train_short_edges, or any whole number from the first to the last"
    )
    train_long_edge: int | None = Field(
        None, gt=0, description="upper bound of the long side in training; default: long_edge"
    )
    flip_probability: float = Field(0.5, ge=0, le=1, description="horizontal flips in training")
    aspect_grouping: bool = Field(
        True, description="a worker's images of a step are all wider than high, or none of them is"
    )


class TestingSettings(Strict):
    """What only predictions, and passes over the data without gradients, read."""

    test_short_edge: int = Field(800, gt=0, description="short side in testing, pixels")
    rpn_test_candidates: int = Field(
        1000, gt=0, description="proposals of a level that go into suppression in testing"
    )
    rpn_test_proposals: int = Field(
        1000, gt=0, description="proposals of an image that are kept after suppression in testing"
    )
    mask_pasting: Pasting = Field(
        "grid",
        description="a mask is sampled at the middle of every pixel of its box, or of the box rounded to "
        "whole pixels, as mmdetection 1 does",
    )


class DetectorSettings(TestingSettings, TrainingSettings, InitialWeights, ModelSettings):
    """Architecture, backbone and their sizes. Defaults are those of the full-size models."""

    @property
    def masks(self) -> bool:
        """Whether it segments."""
        return self.architecture in ("mask_rcnn", "cascade_mask_rcnn", "htc")

    @property
    def stages(self) -> int:
        """Box heads, each with a classifier of its own, that refine each other's boxes."""
        return 1 if self.architecture in ("faster_rcnn", "mask_rcnn") else 3

    @model_validator(mode="before")
    @classmethod
    def _of_framework(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("framework") in FRAMEWORKS:
            return {**FRAMEWORKS[given["framework"]], **given}
        return given

    @model_validator(mode="after")
    def _possible(self) -> "DetectorSettings":
        if self.deformable and self.backbone == "resnet18":
            raise ValueError("resnet18 has no deformable form: its blocks lack the 3x3 bottleneck")
        if self.stride_in_1x1 and self.backbone == "resnet18":
            raise ValueError("resnet18 has no 1x1 convolutions in its blocks: stride_in_1x1 must be false")
        if self.architecture == "htc" and self.mask_channels != self.fpn_channels:
            raise ValueError("htc adds mask features to pyramid features: mask_channels must be fpn_channels")
        if self.semantic_branch and self.architecture != "htc":
            raise ValueError(f"{self.architecture} has no semantic branch")
        if self.cascade == "detectron2" and self.architecture == "htc":
            raise ValueError("detectron2 has no hybrid task cascade: cascade must be mmdet")
        if self.cascade == "detectron2" and self.stages > 1 and not self.class_agnostic_boxes:
            raise ValueError(
                "detectron2's cascades regress boxes for all categories alike: class_agnostic_boxes"
            )
        return self
