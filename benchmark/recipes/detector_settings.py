"""Settings of a detector, in groups by what reads them."""

from typing import Literal

from pydantic import Field, model_validator

from benchmark.recipes.strict import Strict

HUB_COCO_BACKBONES = ("resnet50",)
"""Backbones of the Faster and Mask R-CNN for which torchvision publishes COCO weights."""

SMALL_PICTURE = 320
"""Pixels of the long side up to which trainings do without a GPU."""


class ModelSettings(Strict):
    """What a trained detector is: every step that builds it reads these."""

    architecture: Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "htc"] = Field(
        description="boxes, or boxes and masks, from one stage or from a cascade of three"
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
        "torchvision",
        description="where anchors, RoI samples and pixels lie: as in torchvision; as in mmdetection 1; or "
        "aligned, as in detectron2 and in mmdetection from 2 on",
    )
    stride_in_1x1: bool = Field(
        False,
        description="a bottleneck halves the size in its first convolution, as in the ResNets of Caffe and "
        "MSRA, instead of in its 3x3",
    )


class InitialWeights(Strict):
    """What a training starts from: read by the first stage only."""

    init: Literal["none", "imagenet", "coco"] = Field("imagenet", description="initial weights")
    weights: str | None = Field(None, description="local file with these weights; default: torchvision's hub")
    box_regressor_init: Literal["normal", "uniform"] = Field(
        "normal",
        description="weights N(0, 0.001) and bias 0, or PyTorch's default for a linear layer",
    )


class TrainingSettings(Strict):
    """What only trainings read."""

    trainable_layers: int = Field(
        3, ge=0, le=5, description="residual stages that train, counted from the top"
    )
    rpn_samples: int = Field(256, gt=0, description="anchors sampled per image")
    rpn_train_proposals: int = Field(
        2000, gt=0, description="proposals kept in training, per level and in total"
    )
    roi_samples: int = Field(512, gt=0, description="RoIs sampled per image")
    roi_positive_fraction: float = Field(0.25, gt=0, le=1, description="at most this fraction is foreground")
    roi_background_min_iou: float = Field(
        0.0, ge=0, lt=0.5, description="background RoIs overlap some ground truth at least so much"
    )
    smooth_l1_beta: float = Field(1.0, ge=0, description="transition point of the box loss; 0 is L1")
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


class TestingSettings(Strict):
    """What only predictions, and passes over the data without gradients, read."""

    test_short_edge: int = Field(800, gt=0, description="short side in testing, pixels")
    rpn_test_proposals: int = Field(
        1000, gt=0, description="proposals kept in testing, per level and in total"
    )


class DetectorSettings(TestingSettings, TrainingSettings, InitialWeights, ModelSettings):
    """Architecture, backbone and their sizes. Defaults are those of the full-size models."""

    @property
    def masks(self) -> bool:
        """Whether it segments."""
        return self.architecture in ("mask_rcnn", "cascade_mask_rcnn", "htc")

    @property
    def for_cpu(self) -> bool:
        """Whether its pictures are so small that it is meant for CPU cores."""
        return self.long_edge <= SMALL_PICTURE

    @property
    def stages(self) -> int:
        """Box heads, each with a classifier of its own, that refine each other's boxes."""
        return 1 if self.architecture in ("faster_rcnn", "mask_rcnn") else 3

    @model_validator(mode="after")
    def _possible(self) -> "DetectorSettings":
        if self.deformable and self.backbone == "resnet18":
            raise ValueError("resnet18 has no deformable form: its blocks lack the 3x3 bottleneck")
        if self.architecture == "htc" and self.mask_channels != self.fpn_channels:
            raise ValueError("htc adds mask features to pyramid features: mask_channels must be fpn_channels")
        if self.semantic_branch and self.architecture != "htc":
            raise ValueError(f"{self.architecture} has no semantic branch")
        return self
