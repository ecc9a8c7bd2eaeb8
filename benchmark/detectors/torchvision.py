"""Faster and Mask R-CNN with a feature pyramid, from torchvision's parts and with any classifier."""

import re
from collections import OrderedDict
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import roi_heads as tv_roi_heads
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, roi_align
from torchvision.ops import boxes as box_ops
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from benchmark.classifiers import Classifier, NormedConv2d
from benchmark.detectors.initial_weights import copy_fitting, read_weights
from benchmark.detectors.interface import (
    POOLED_SIDE,
    ChooseRoIs,
    Detections,
    Detector,
    RoIBatch,
    image_numbers,
)
from benchmark.detectors.layouts import TORCHVISION_RENAMED
from benchmark.detectors.parts import (
    IMAGE_MEAN,
    IMAGE_STD,
    FrozenStatisticsNorm,
    box_head_features,
    chosen_rois,
    draw,
    of_label,
)
from benchmark.detectors.postprocessing import finish, select, with_a_pixel
from benchmark.errors import BenchmarkError
from benchmark.images import Target
from benchmark.processes import over_processes
from benchmark.recipes.detector_settings import DetectorSettings as Settings
from benchmark.recipes.models import TestSettings

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
FEATURE_LEVELS = ["0", "1", "2", "3"]
ANCHOR_STRIDES = [4, 8, 16, 32, 64]  # pixels; those of the feature levels, then that of the pooled one
FINEST_ROI = 56  # pixels; the square root of a RoI's area from which the second level takes over is twice it

_RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int], dict[str, int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2], {}),
    "resnet50": (Bottleneck, [3, 4, 6, 3], {}),
    "resnet101": (Bottleneck, [3, 4, 23, 3], {}),
    "resnext101_64x4d": (Bottleneck, [3, 4, 23, 3], {"groups": 64, "width_per_group": 4}),
}


class _NarrowResNet(ResNet):
    """torchvision's ResNet with the channels of its residual stages multiplied by a factor."""

    def __init__(self, *args: object, width: float, **kwargs: object) -> None:
        self._width_factor = width
        super().__init__(*args, **kwargs)

    def _make_layer(self, block: object, planes: int, *args: object, **kwargs: object) -> nn.Sequential:
        return super()._make_layer(block, max(8, round(planes * self._width_factor)), *args, **kwargs)


_NORMS = {
    "frozen": FrozenBatchNorm2d,
    "frozen_statistics": FrozenStatisticsNorm,
    "batch": nn.BatchNorm2d,
}


def _backbone(settings: Settings) -> BackboneWithFPN:
    block, layers, grouping = _RESNETS[settings.backbone]
    norm = _NORMS[settings.norm]
    body = _NarrowResNet(block, layers, norm_layer=norm, width=settings.width, **grouping)
    if settings.stride_in_1x1:
        _move_stride(body)
    channels = [
        (stage[-1].bn2 if block is BasicBlock else stage[-1].bn3).weight.numel()
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4)
    ]
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][: settings.trainable_layers]
    if settings.trainable_layers == 5:
        trained.append("bn1")
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(any(name.startswith(layer) for layer in trained))
    return_layers = {f"layer{level + 1}": str(level) for level in range(4)}
    return BackboneWithFPN(
        body, return_layers, channels, settings.fpn_channels, extra_blocks=LastLevelMaxPool()
    )


def _move_stride(body: ResNet) -> None:
    """Halve the size of each stage in the first 1x1 convolution."""
    for stage in (body.layer2, body.layer3, body.layer4):
        if not isinstance(stage[0], Bottleneck):
            raise BenchmarkError(
                "stride_in_1x1 is for backbones with bottlenecks", expected="resnet50 or deeper"
            )
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride


class _Anchors(AnchorGenerator):
    """Anchors of three shapes at each position, in float32.

    In mixed precision too: bfloat16 knows only every eighth pixel beyond 1024.

    ``coordinates`` other than torchvision's have the nominal stride of each level, where torchvision divides
    the padded image's size by the level's and gets 61 instead of 64 for the coarsest level of an 800-pixel
    side. Their anchors are not rounded (``aligned``), or rounded and around the middle of a cell instead of
    its corner (``mmdet_v1``).
    """

    def __init__(self, sizes: list[int], coordinates: str) -> None:
        super().__init__(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * len(sizes))
        self.coordinates = coordinates
        if coordinates != "torchvision":
            self.cell_anchors = [
                self._around_a_cell(size, stride) for size, stride in zip(sizes, ANCHOR_STRIDES, strict=True)
            ]

    def _around_a_cell(self, size: int, stride: int) -> Tensor:
        heights = size * torch.tensor([0.5, 1.0, 2.0]).sqrt()
        sides = torch.stack([size**2 / heights, heights], dim=1) / 2
        if self.coordinates == "aligned":
            return torch.cat([-sides, sides], dim=1)
        # mmdetection 1 rounds the first and the last pixel that an anchor includes
        return torch.cat([(stride / 2 - sides).round(), (stride / 2 + sides - 1).round() + 1], dim=1)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Anchors (A, 4) of each image."""
        # of the features only sizes, type and device are used
        levels = [level[:1, :1].float() for level in feature_maps]
        if self.coordinates == "torchvision":
            return list(super().forward(image_list, levels))
        self.set_cell_anchors(torch.float32, levels[0].device)
        strides = [[levels[0].new_tensor(stride, dtype=torch.int64)] * 2 for stride in ANCHOR_STRIDES]
        anchors = torch.cat(self.grid_anchors([level.shape[-2:] for level in levels], strides))
        return [anchors] * len(image_list.image_sizes)


class _RoIPool(nn.Module):
    """RoIAlign without torchvision's minimum of one feature pixel for a RoI's sides.

    Args:
        side: positions of the output along each side.
        coordinates: ``aligned`` samples densely, pixel i of a level being around i + 0.5; ``mmdet_v1``
            samples 2 x 2 points in every position, pixel i being at i.
    """

    def __init__(self, side: int, coordinates: str) -> None:
        super().__init__()
        self.side = side
        self.samples, self.shift = (0, 0.0) if coordinates == "aligned" else (2, 0.5)

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> Tensor:
        """(N, channels, side, side) of boxes in input pixels; the level follows from a box's size."""
        rois = torch.cat([F.pad(item, (1, 0), value=image) for image, item in enumerate(boxes)])
        size = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
        fitting = (size / FINEST_ROI + 1e-6).log2().floor().clamp(0, len(FEATURE_LEVELS) - 1)
        first = features[FEATURE_LEVELS[0]]
        pooled = first.new_zeros(len(rois), first.shape[1], self.side, self.side)
        for number, name in enumerate(FEATURE_LEVELS):
            chosen = (fitting == number).nonzero().squeeze(1)
            moved = rois[chosen]
            moved[:, 1:] += self.shift * ANCHOR_STRIDES[number]
            scale = 1 / ANCHOR_STRIDES[number]
            found = roi_align(features[name], moved, self.side, scale, self.samples, aligned=True)
            pooled = pooled.index_copy(0, chosen, found.to(pooled.dtype))
        return pooled


def _roi_pool(side: int, coordinates: str) -> nn.Module:
    if coordinates == "torchvision":
        return MultiScaleRoIAlign(FEATURE_LEVELS, output_size=side, sampling_ratio=2)
    return _RoIPool(side, coordinates)


class _ProposalHead(RPNHead):
    """Objectness and deltas in float32, because boxes are decoded in the type of the deltas."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        objectness, deltas = super().forward(x)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class _ProposalNetwork(RegionProposalNetwork):
    """torchvision's, whose proposals keep a pixel of the image where the weights are used to it."""

    keep_a_pixel = False

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, sizes: list[tuple[int, int]], per_level: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Best proposals after suppression, and their scores, per image."""
        if self.keep_a_pixel:
            pairs = zip(proposals, sizes, strict=True)
            proposals = torch.stack([with_a_pixel(boxes, size) for boxes, size in pairs])
        boxes, scores = super().filter_proposals(proposals, objectness, sizes, per_level)
        return list(boxes), list(scores)


class _ImageSampler:
    """Draws foreground and background of each image with the image's own generator.

    Called as torchvision's ``BalancedPositiveNegativeSampler`` is; ``generators`` are set before, one for
    each image, None for the default generator.
    """

    def __init__(self, size: int, positive_fraction: float) -> None:
        self.size, self.positive_fraction = size, positive_fraction
        self.generators: list[torch.Generator | None] = []

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the drawn foreground (label above 0) and background (0), one pair for each image."""
        masks = [
            draw(label, self.size, self.positive_fraction, generator)
            for label, generator in zip(labels, self.generators, strict=True)
        ]
        return [positive for positive, _ in masks], [negative for _, negative in masks]


class _BoxHeads(tv_roi_heads.RoIHeads):
    """RoI pooling, box and mask heads under torchvision's parameter names; sampling is inherited."""

    def __init__(self, settings: Settings, num_classes: int) -> None:
        width = settings.box_head_width
        super().__init__(
            box_roi_pool=_roi_pool(POOLED_SIDE, settings.coordinates),
            box_head=TwoMLPHead(settings.fpn_channels * POOLED_SIDE**2, width),
            box_predictor=None,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=settings.roi_samples,
            positive_fraction=settings.roi_positive_fraction,
            bbox_reg_weights=BOX_WEIGHTS,
            score_thresh=0.0,
            nms_thresh=0.5,
            detections_per_img=0,
        )
        self.fg_bg_sampler = _ImageSampler(settings.roi_samples, settings.roi_positive_fraction)
        self.background_min_iou = settings.roi_background_min_iou
        self.box_regressor = nn.Linear(width, 4 * (1 if settings.class_agnostic_boxes else num_classes))
        if settings.box_regressor_init == "normal":
            nn.init.normal_(self.box_regressor.weight, std=0.001)
            nn.init.zeros_(self.box_regressor.bias)
        if settings.masks:
            channels = settings.mask_channels
            self.mask_roi_pool = _roi_pool(14, settings.coordinates)
            self.mask_head = MaskRCNNHeads(
                settings.fpn_channels, [channels] * settings.mask_layers, dilation=1
            )
            mask_classes = 1 if settings.class_agnostic_masks else num_classes
            self.mask_predictor = MaskRCNNPredictor(channels, channels, mask_classes)
            if settings.mask_predictor == "normed":
                self.mask_predictor.mask_fcn_logits = NormedConv2d(
                    channels, mask_classes, temperature=settings.mask_temperature
                )

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Matched ground truth and label of each proposal: 0 background, -1 too far off to be used."""
        matches, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        if self.background_min_iou > 0:
            for boxes, truth, label in zip(proposals, gt_boxes, labels, strict=True):
                near = box_ops.box_iou(truth, boxes).amax(dim=0) >= self.background_min_iou
                label[(label == 0) & ~near] = -1
        return matches, labels

    def check_targets(self, targets: object) -> None:
        """Not needed: targets come from ``TorchvisionDetector``, and sampling RoIs needs no masks."""


class TorchvisionDetector(Detector):
    """A two-stage detector behind ``benchmark.detectors.interface.Detector``.

    Args:
        settings: architecture and sizes.
        classifier: box classification layer for C categories.
        test: thresholds of ``predict``.

    Raises:
        BenchmarkError: a cascade, or deformable convolutions.
    """

    backend = "torchvision"

    def __init__(self, settings: Settings, classifier: Classifier, test: TestSettings) -> None:
        super().__init__(settings, test, classifier.num_classes)
        if settings.stages > 1 or settings.deformable:
            raise BenchmarkError(
                "back end 'torchvision' has neither cascades nor deformable convolutions",
                found=f"{settings.architecture}{', deformable' if settings.deformable else ''}",
                expected="faster_rcnn or mask_rcnn, not deformable",
                remedy="take the detector from back end mmdet",
            )
        self.keep_a_pixel = settings.coordinates == "mmdet_v1"
        # images come in their final size: only normalisation and padding are used
        self.images = GeneralizedRCNNTransform(
            settings.test_short_edge, settings.long_edge, IMAGE_MEAN, IMAGE_STD
        )
        self.backbone = _backbone(settings)
        kept = {"training": settings.rpn_train_proposals, "testing": settings.rpn_test_proposals}
        self.rpn = _ProposalNetwork(
            _Anchors(settings.anchor_sizes, settings.coordinates),
            _ProposalHead(settings.fpn_channels, 3),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=settings.rpn_samples,
            positive_fraction=0.5,
            pre_nms_top_n=kept,
            post_nms_top_n=kept,
            nms_thresh=0.7,
        )
        self.rpn.keep_a_pixel = settings.coordinates == "mmdet_v1"
        self.rpn.fg_bg_sampler = _ImageSampler(settings.rpn_samples, positive_fraction=0.5)
        self.roi_heads = _BoxHeads(settings, self.num_classes)
        self.classifiers = nn.ModuleList([classifier])

    @property
    def box_head_layers(self) -> list[list[nn.Linear]]:
        """The two layers of the box head."""
        return [[self.roi_heads.box_head.fc6, self.roi_heads.box_head.fc7]]

    @property
    def _classifier(self) -> Classifier:
        return cast(Classifier, self.classifiers[0])

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Losses of the proposal network, the classifier, the box regressor and the mask head."""
        batch, features, tv_targets = self._features(images, targets)
        proposals, proposal_losses = self.rpn(batch, features, tv_targets)
        losses = dict(proposal_losses)
        proposals, matches, labels, deltas = self._sample(proposals, tv_targets)
        classified, box_features = self._box_features(features, proposals, batch.image_sizes)
        y, t = torch.cat(labels), torch.cat(deltas)
        logits = self._classifier(classified)
        losses |= self._classifier.loss(logits.float(), y)
        losses["loss_box"] = self._box_loss(self.roi_heads.box_regressor(box_features).float(), y, t)
        # the losses of the proposal network are means over equally many anchors of each image
        losses |= over_processes(
            {name: losses[name] for name in losses if name not in proposal_losses}, len(y)
        )
        if self.settings.masks:
            mask_loss = self._mask_loss(features, proposals, matches, labels, tv_targets, batch.image_sizes)
            losses |= over_processes({"loss_mask": mask_loss}, (y < self.num_classes).sum())
        losses["loss_rpn_objectness"] = losses.pop("loss_objectness")
        losses["loss_rpn_box"] = losses.pop("loss_rpn_box_reg")
        return losses

    @torch.no_grad()
    def box_features(
        self, images: list[Tensor], targets: list[Target], choose: ChooseRoIs | None = None
    ) -> list[RoIBatch]:
        """Features of RoIs proposed and sampled as in training, the network otherwise in evaluation mode."""
        batch, features, tv_targets = self._features(images, targets)
        proposals, _ = self._proposals(batch, features, as_in_training=True)
        proposals, _, labels, _ = self._sample(proposals, tv_targets)
        if choose is not None:
            masks = chosen_rois(labels, choose)
            proposals = [boxes[mask] for boxes, mask in zip(proposals, masks, strict=True)]
            labels = [label[mask] for label, mask in zip(labels, masks, strict=True)]
        return [self._roi_batch(batch, features, proposals, labels)]

    @torch.no_grad()
    def ground_truth_features(self, images: list[Tensor], targets: list[Target]) -> list[RoIBatch]:
        """Features of the ground-truth boxes as they are, in evaluation mode."""
        batch, features, _ = self._features(images, targets)
        boxes, labels = [target.boxes for target in targets], [target.labels for target in targets]
        return [self._roi_batch(batch, features, boxes, labels)]

    @torch.no_grad()
    def predict(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> list[Detections]:
        """LVIS protocol: score threshold, suppression per category, best of the image, masks of those."""
        batch, features, _ = self._features(images, None)
        proposals, objectness = self._proposals(batch, features, as_in_training=False)
        classified, box_features = self._box_features(features, proposals, batch.image_sizes)
        logits = self._classifier(classified).float()
        scores = self._classifier.detection_scores([logits], torch.cat(objectness))
        deltas = self.roi_heads.box_regressor(box_features).float()
        # (N, categories or 1, 4), whatever the number of columns
        boxes = self.roi_heads.box_coder.decode(deltas, proposals)
        counts = [len(item) for item in proposals]
        kept = [
            select(with_a_pixel(b, size) if self.keep_a_pixel else b, s, size, self.test)
            for b, s, size in zip(boxes.split(counts), scores.split(counts), batch.image_sizes, strict=True)
        ]
        masks: list[Tensor | None] = [None] * len(kept)
        if self.settings.masks:
            masks = list(self._mask_probabilities(features, kept, batch.image_sizes))
        return [
            finish(
                item,
                mask,
                _paste,
                self.test.mask_threshold,
                from_size=given,
                to_size=original,
                coordinates=self.settings.coordinates,
            )
            for item, mask, given, original in zip(kept, masks, batch.image_sizes, sizes, strict=True)
        ]

    def _features(
        self, images: list[Tensor], targets: list[Target] | None
    ) -> tuple[ImageList, OrderedDict[str, Tensor], list[dict[str, Tensor]]]:
        generators = [target.generator(target.boxes.device) for target in targets or []]
        self.rpn.fg_bg_sampler.generators = self.roi_heads.fg_bg_sampler.generators = generators
        normal = [self.images.normalize(image) for image in images]
        batch = ImageList(
            self.images.batch_images(normal, size_divisible=32), [tuple(i.shape[-2:]) for i in images]
        )
        # torchvision's matching uses 0 for background; nothing outside this class sees its labels
        tv_targets = [
            {"boxes": target.boxes, "labels": target.labels + 1}
            | ({} if target.masks is None else {"masks": target.masks})
            for target in targets or []
        ]
        return batch, self.backbone(batch.tensors), tv_targets

    def _proposals(
        self, batch: ImageList, features: OrderedDict[str, Tensor], *, as_in_training: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Proposals (n, 4) of each image in the numbers of training or testing, and their scores (n,).

        Without the losses that ``rpn`` would compute.
        """
        levels = list(features.values())
        objectness, deltas = self.rpn.head(levels)
        anchors = self.rpn.anchor_generator(batch, levels)
        per_level = [level[0].shape.numel() for level in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = self.rpn.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
        was_training = self.rpn.training
        self.rpn.training = as_in_training
        found = self.rpn.filter_proposals(boxes, objectness, batch.image_sizes, per_level)
        self.rpn.training = was_training
        return found

    def _sample(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """RoIs, matched ground truth, labels in ``0..C`` and regression targets, per image."""
        rois, matches, labels, deltas = self.roi_heads.select_training_samples(proposals, targets)
        ours = [torch.where(label == 0, self.num_classes, label - 1) for label in labels]
        return rois, matches, ours, deltas

    def _box_features(
        self, features: OrderedDict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Features as the classifier takes them, (N, D) or (N, D + P), and those of the regressor (N, D)."""
        pooled = self.roi_heads.box_roi_pool(features, proposals, sizes).flatten(start_dim=1)
        head = self.roi_heads.box_head
        return box_head_features(head.fc6, head.fc7, pooled, self._classifier)

    def _roi_batch(
        self,
        batch: ImageList,
        features: OrderedDict[str, Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
    ) -> RoIBatch:
        classified, _ = self._box_features(features, boxes, batch.image_sizes)
        return RoIBatch(classified, torch.cat(labels), torch.cat(boxes), image_numbers(labels))

    def _box_loss(self, deltas: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Smooth L1 over foreground RoIs, divided by the number of all RoIs."""
        foreground = (labels < self.num_classes).nonzero().squeeze(1)
        deltas = deltas.view(len(deltas), -1, 4)
        column = labels[foreground] if deltas.shape[1] > 1 else torch.zeros_like(foreground)
        loss = F.smooth_l1_loss(
            deltas[foreground, column],
            targets[foreground],
            beta=self.settings.smooth_l1_beta,
            reduction="sum",
        )
        return loss / max(len(labels), 1)

    def _mask_loss(
        self,
        features: OrderedDict[str, Tensor],
        proposals: list[Tensor],
        matches: list[Tensor],
        labels: list[Tensor],
        targets: list[dict[str, Tensor]],
        sizes: list[tuple[int, int]],
    ) -> Tensor:
        foreground = [(label < self.num_classes).nonzero().squeeze(1) for label in labels]
        rois = [p[f] for p, f in zip(proposals, foreground, strict=True)]
        logits = self._mask_logits(features, rois, sizes).float()
        if len(logits) == 0:
            return logits.sum() * 0
        shapes = [
            tv_roi_heads.project_masks_on_boxes(target["masks"], roi, match[f], logits.shape[-1])
            for target, roi, match, f in zip(targets, rois, matches, foreground, strict=True)
        ]
        chosen = of_label(logits, torch.cat([label[f] for label, f in zip(labels, foreground, strict=True)]))
        return F.binary_cross_entropy_with_logits(chosen, torch.cat(shapes))

    def _mask_logits(
        self, features: OrderedDict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> Tensor:
        pooled = self.roi_heads.mask_roi_pool(features, boxes, sizes)
        logits: Tensor = self.roi_heads.mask_predictor(self.roi_heads.mask_head(pooled))
        return logits

    def _mask_probabilities(
        self,
        features: OrderedDict[str, Tensor],
        kept: list[tuple[Tensor, Tensor, Tensor]],
        sizes: list[tuple[int, int]],
    ) -> tuple[Tensor, ...]:
        """Probabilities (n, 1, M, M) of the detected category's channel, per image."""
        logits = self._mask_logits(features, [boxes for boxes, _, _ in kept], sizes).float()
        chosen = of_label(logits, torch.cat([labels for _, labels, _ in kept]))[:, None].sigmoid()
        return chosen.split([len(boxes) for boxes, _, _ in kept])


def _paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    pasted: Tensor = tv_roi_heads.paste_masks_in_image(masks, boxes, size)
    return pasted[:, 0]


def load_initial_weights(detector: TorchvisionDetector, settings: Settings) -> None:
    """Copy what fits of the initial weights (see ``copy_fitting``), in torchvision's layout.

    Raises:
        MissingDependencyError: the weights are not at hand and cannot be fetched.
        BenchmarkError: not one tensor of the file fits.
    """
    if settings.init == "none":
        return
    state = read_weights(settings)
    if settings.init == "imagenet":
        state = {f"backbone.body.{name}": value for name, value in state.items()}
    for pattern, replacement in TORCHVISION_RENAMED.items():
        state = {re.sub(pattern, replacement, name): value for name, value in state.items()}
    copy_fitting(detector, state, settings, "torchvision's")
