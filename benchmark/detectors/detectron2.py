"""Faster, Mask and Cascade R-CNN with a feature pyramid, from detectron2's parts and with any classifier.

Trunk, pyramid, proposal network, RoI pooling, heads, matching and losses are detectron2's; images, engine,
test protocol and random draws are this project's, and nothing of detectron2 leaves this file. As in the
other back ends and not as in detectron2, images are RGB with torchvision's mean and deviation (weights for
others are folded, see ``load_initial_weights``); as many proposals are kept after suppression as before
(detectron2's configurations keep half of them in training); and the losses of a cascade's stages have
``STAGE_WEIGHTS`` (there they have weight 1, and a third of the gradient reaches the features).
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.layers import ROIAlign, ShapeSpec, paste_masks_in_image
from detectron2.modeling import FPN, FastRCNNOutputLayers, ResNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.proposal_generator.rpn import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from benchmark.classifiers import Classifier, NormedConv2d
from benchmark.detectors.colours import Colours
from benchmark.detectors.initial_weights import copy_fitting, read_weights, read_zoo
from benchmark.detectors.interface import (
    POOLED_SIDE,
    ChooseRoIs,
    Detections,
    Detector,
    RoIBatch,
    image_numbers,
    stage_losses,
)
from benchmark.detectors.layouts import DETECTRON2
from benchmark.detectors.parts import (
    IMAGE_MEAN,
    IMAGE_STD,
    FrozenStatisticsNorm,
    as_list,
    box_head_features,
    chosen_rois,
    draw,
    of_label,
)
from benchmark.detectors.postprocessing import finish, select
from benchmark.errors import BenchmarkError
from benchmark.images import Target
from benchmark.processes import over_processes
from benchmark.recipes.detector_settings import DetectorSettings as Settings
from benchmark.recipes.models import TestSettings

# or the first pooling warns of a PyTorch function that detectron2 asks whether it is traced
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

SIZE_DIVISOR = 32  # of the padded images
STEM_CHANNELS = 64
FIRST_CONVOLUTION = "backbone.bottom_up.stem.conv1.weight"
MASK_SIDE = 14  # positions of the pooled features along each side; masks have twice as many
MASKS_AT_ONCE = 32  # bounds the memory of masks for all categories: 120 MB for those of LVIS
STRIDES = [4, 8, 16, 32, 64]  # pixels, of the pyramid's levels
# IoU from which a RoI is foreground, and weights of the box deltas, of every stage of a cascade
STAGES = (
    (0.5, (10.0, 10.0, 5.0, 5.0)),
    (0.6, (20.0, 20.0, 10.0, 10.0)),
    (0.7, (30.0, 30.0, 15.0, 15.0)),
)

# block, blocks of the stages, groups, and channels of a group in the first stage
_RESNETS: dict[str, tuple[type[nn.Module], tuple[int, ...], int, int]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 64),
    "resnet50": (BottleneckBlock, (3, 4, 6, 3), 1, 64),
    "resnet101": (BottleneckBlock, (3, 4, 23, 3), 1, 64),
    "resnext101_64x4d": (BottleneckBlock, (3, 4, 23, 3), 64, 4),
}
_NORMS: dict[str, Any] = {"frozen": "FrozenBN", "frozen_statistics": FrozenStatisticsNorm, "batch": "BN"}


def trunk(settings: Settings) -> ResNet:
    """The residual network, frozen up to the stages that train."""
    block, lengths, groups, width = _RESNETS[settings.backbone]
    norm = _NORMS[settings.norm]
    base = max(8, round(STEM_CHANNELS * settings.width))
    stages, channels = [], STEM_CHANNELS
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
        stages.append(
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
    return ResNet(stem, stages, out_features=names, freeze_at=5 - settings.trainable_layers)


class _ProposalHead(StandardRPNHead):
    """Objectness and deltas in float32, because bfloat16 orders proposals coarsely."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        objectness, deltas = super().forward(features)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class _ProposalNetwork(RPN):
    """detectron2's, with the draws of each image from the image's own generator.

    Set before a call: ``kept``, the number of proposals per level and in total, and ``generators``, one for
    each image where there is ground truth.
    """

    kept = 0
    generators: Iterator[torch.Generator | None] = iter(())

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            in_features=["p2", "p3", "p4", "p5", "p6"],
            head=_ProposalHead(in_channels=settings.fpn_channels, num_anchors=3),
            anchor_generator=DefaultAnchorGenerator(
                sizes=[[size] for size in settings.anchor_sizes],
                aspect_ratios=[[0.5, 1.0, 2.0]],
                strides=STRIDES,
                offset=0.0,
            ),
            anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
            box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
            batch_size_per_image=settings.rpn_samples,
            positive_fraction=0.5,
            pre_nms_topk=(0, 0),
            post_nms_topk=(0, 0),
        )

    def _subsample_labels(self, label: Tensor) -> Tensor:
        """Called for image after image."""
        drawn = draw(label, self.batch_size_per_image, self.positive_fraction, next(self.generators))
        label.fill_(-1)
        for mask, value in zip(drawn, (1, 0), strict=True):
            label[mask] = value
        return label

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        objectness: list[Tensor],
        deltas: list[Tensor],
        sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Proposals per image; ones that are not finite are left out, as divergence shows in the losses."""
        return find_top_rpn_proposals(
            self._decode_proposals(anchors, deltas),
            objectness,
            sizes,
            self.nms_thresh,
            self.kept,
            self.kept,
            self.min_box_size,
            training=False,
        )


class _BoxPredictor(FastRCNNOutputLayers):
    """The box regressor of a stage and its loss; the classifier is the detector's."""

    def __init__(
        self, settings: Settings, num_classes: int, weights: tuple[float, float, float, float]
    ) -> None:
        super().__init__(
            ShapeSpec(channels=settings.box_head_width),
            box2box_transform=Box2BoxTransform(weights=weights),
            num_classes=num_classes,
            cls_agnostic_bbox_reg=settings.class_agnostic_boxes,
            smooth_l1_beta=settings.smooth_l1_beta,
        )
        del self.cls_score
        if settings.box_regressor_init == "uniform":
            self.bbox_pred.reset_parameters()


class _RoIHeads(nn.Module):
    """Pooling, box heads and mask head under detectron2's names."""

    def __init__(self, settings: Settings, num_classes: int) -> None:
        super().__init__()
        channels, stages = settings.fpn_channels, STAGES[: settings.stages]
        shape = ShapeSpec(channels=channels, height=POOLED_SIDE, width=POOLED_SIDE)
        heads = [
            FastRCNNConvFCHead(shape, conv_dims=[], fc_dims=[settings.box_head_width] * 2) for _ in stages
        ]
        predictors = [_BoxPredictor(settings, num_classes, weights) for _, weights in stages]
        self.box_pooler = _pooler(POOLED_SIDE)
        self.box_head = heads[0] if len(stages) == 1 else nn.ModuleList(heads)
        self.box_predictor = predictors[0] if len(stages) == 1 else nn.ModuleList(predictors)
        near = settings.roi_background_min_iou
        self.matchers = [
            Matcher([near, iou], [-1, 0, 1]) if near > 0 else Matcher([iou], [0, 1]) for iou, _ in stages
        ]
        if settings.masks:
            self.mask_pooler = _pooler(MASK_SIDE)
            masks = 1 if settings.class_agnostic_masks else num_classes
            self.mask_head = MaskRCNNConvUpsampleHead(
                ShapeSpec(channels=channels, height=MASK_SIDE, width=MASK_SIDE),
                num_classes=masks,
                conv_dims=[settings.mask_channels] * (settings.mask_layers + 1),
            )
            if settings.mask_predictor == "normed":
                self.mask_head.predictor = NormedConv2d(
                    settings.mask_channels, masks, temperature=settings.mask_temperature
                )


def _pooler(side: int) -> ROIPooler:
    return ROIPooler(
        side, scales=[1 / stride for stride in STRIDES[:4]], sampling_ratio=0, pooler_type="ROIAlignV2"
    )


@dataclass
class _RoIs:
    """RoIs in training, an entry for each image: boxes (n, 4), labels (n,) in ``0..C``, and the number (n,)
    of the ground truth that each overlaps most."""

    boxes: list[Tensor]
    labels: list[Tensor]
    matches: list[Tensor]

    def only(self, kept: list[Tensor]) -> "_RoIs":
        """Those for which the masks say so."""
        lists = (self.boxes, self.labels, self.matches)
        return _RoIs(*([item[keep] for item, keep in zip(items, kept, strict=True)] for items in lists))


class Detectron2Detector(Detector):
    """A detector of detectron2 behind ``benchmark.detectors.interface.Detector``.

    Parameters have the names that they have in detectron2, but for those of the classifiers.

    Args:
        settings: architecture and sizes.
        classifiers: one for each box head.
        test: thresholds of ``predict``.

    Raises:
        BenchmarkError: what detectron2 does not have (hybrid task cascades, cascades with a box for each
            category, coordinates other than its own), or has for GPUs only (deformable convolutions).
    """

    backend = "detectron2"
    mean: Tensor
    std: Tensor

    def __init__(self, settings: Settings, classifiers: Sequence[Classifier], test: TestSettings) -> None:
        super().__init__(settings, test, classifiers[0].num_classes)
        _check(settings)
        body = trunk(settings)
        self.backbone = FPN(
            body, list(body.output_shape()), settings.fpn_channels, top_block=LastLevelMaxPool()
        )
        self.proposal_generator = _ProposalNetwork(settings)
        self.roi_heads = _RoIHeads(settings, self.num_classes)
        self.classifiers = nn.ModuleList(classifiers)
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD)[:, None, None], persistent=False)

    @property
    def box_head_layers(self) -> list[list[nn.Linear]]:
        """The two layers of each box head."""
        return [[head.fc1, head.fc2] for head in self._box_heads]

    @property
    def _box_heads(self) -> list[FastRCNNConvFCHead]:
        return as_list(self.roi_heads.box_head)

    @property
    def _box_predictors(self) -> list[_BoxPredictor]:
        return as_list(self.roi_heads.box_predictor)

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Losses of the proposal network, the mask head, and the classifier and box regressor of each stage.

        Those of a cascade's stages begin with s0, s1, s2. Masks are learned on the RoIs of the first stage.
        """
        batch, features = self._features(images)
        generators = [target.generator(target.boxes.device) for target in targets]
        proposals, _, found = self._proposals(
            batch, features, self.settings.rpn_train_proposals, targets, generators
        )
        sampled = rois = self._sampled(proposals, targets, generators)
        stages = []
        for stage, predictor in enumerate(self._box_predictors):
            classified, activated = self._box_features(stage, features, rois.boxes)
            deltas = predictor.bbox_pred(activated).float()
            labels, given = torch.cat(rois.labels), torch.cat(rois.boxes)
            classifier = self._classifier(stage)
            own = classifier.loss(classifier(classified).float(), labels)
            own["loss_box"] = predictor.box_reg_loss(given, _truth(rois, targets), deltas, labels)
            # the losses of the proposal network are divided by the same number for each image
            stages.append(over_processes(own, len(labels)))
            if stage + 1 < len(self._box_heads):
                refined = self._refined(stage, rois.boxes, deltas, batch.image_sizes)
                rois = self._matched(stage + 1, refined, targets)
        losses = stage_losses(stages)
        if self.settings.masks:
            positive = [label < self.num_classes for label in sampled.labels]
            loss = self._mask_loss(features, sampled.only(positive), targets)
            losses |= over_processes({"loss_mask": loss}, torch.cat(positive).sum())
        losses["loss_rpn_objectness"] = found["loss_rpn_cls"]
        losses["loss_rpn_box"] = found["loss_rpn_loc"]
        return losses

    @torch.no_grad()
    def box_features(
        self, images: list[Tensor], targets: list[Target], choose: ChooseRoIs | None = None
    ) -> list[RoIBatch]:
        """Features of RoIs proposed, sampled and refined as in training, in evaluation mode."""
        batch, features = self._features(images)
        generators = [target.generator(target.boxes.device) for target in targets]
        proposals, _, _ = self._proposals(batch, features, self.settings.rpn_train_proposals)
        rois = self._sampled(proposals, targets, generators)
        batches = []
        for stage, predictor in enumerate(self._box_predictors):
            chosen = chosen_rois(rois.labels, choose)
            last = stage + 1 == len(self._box_heads)
            if last:  # no stage is refined from the others
                rois, chosen = rois.only(chosen), [keep[keep] for keep in chosen]
            classified, activated = self._box_features(stage, features, rois.boxes)
            kept = torch.cat(chosen)
            numbers = image_numbers(rois.labels)
            parts = (classified, torch.cat(rois.labels), torch.cat(rois.boxes), numbers)
            batches.append(RoIBatch(*(part[kept] for part in parts)))
            if not last:
                deltas = predictor.bbox_pred(activated).float()
                refined = self._refined(stage, rois.boxes, deltas, batch.image_sizes)
                rois = self._matched(stage + 1, refined, targets)
        return batches

    @torch.no_grad()
    def ground_truth_features(self, images: list[Tensor], targets: list[Target]) -> list[RoIBatch]:
        """Features of the ground-truth boxes as they are, in every stage, in evaluation mode."""
        _, features = self._features(images)
        boxes, labels = [target.boxes for target in targets], [target.labels for target in targets]
        batches = []
        for stage in range(len(self._box_heads)):
            classified, _ = self._box_features(stage, features, boxes)
            batches.append(RoIBatch(classified, torch.cat(labels), torch.cat(boxes), image_numbers(labels)))
        return batches

    @torch.no_grad()
    def predict(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> list[Detections]:
        """LVIS protocol, with a cascade's last boxes and the scores that the method makes of all stages."""
        batch, features = self._features(images)
        boxes, objectness, _ = self._proposals(batch, features, self.settings.rpn_test_proposals)
        counts = [len(item) for item in boxes]
        logits = []
        for stage, predictor in enumerate(self._box_predictors):
            classified, activated = self._box_features(stage, features, boxes)
            deltas = predictor.bbox_pred(activated).float()
            logits.append(self._classifier(stage)(classified).float())
            if stage + 1 < len(self._box_heads):
                boxes = self._refined(stage, boxes, deltas, batch.image_sizes)
        decoded = predictor.box2box_transform.apply_deltas(deltas, torch.cat(boxes))
        columns = decoded.view(len(decoded), -1, 4)  # a box for each category, or one for all
        score = self._classifier(-1).detection_scores(logits, torch.cat(objectness))
        detections = []
        for number, (own, given, size, original) in enumerate(
            zip(columns.split(counts), score.split(counts), batch.image_sizes, sizes, strict=True)
        ):
            kept = select(own, given, size, self.test)
            masks = self._mask_probabilities([level[number : number + 1] for level in features], *kept[:2])
            detections.append(
                finish(kept, masks, self._paste, self.test.mask_threshold, from_size=size, to_size=original)
            )
        return detections

    def _classifier(self, stage: int) -> Classifier:
        return cast(Classifier, self.classifiers[stage])

    def _features(self, images: list[Tensor]) -> tuple[ImageList, list[Tensor]]:
        """The padded batch, and its feature pyramid in float32: RoIAlign takes boxes in that type."""
        batch = ImageList.from_tensors([(image - self.mean) / self.std for image in images], SIZE_DIVISOR)
        return batch, [level.float() for level in self.backbone(batch.tensor).values()]

    def _proposals(
        self,
        batch: ImageList,
        features: list[Tensor],
        count: int,
        targets: list[Target] | None = None,
        generators: list[torch.Generator | None] | None = None,
    ) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """At most ``count`` proposals (n, 4) of each image, their scores (n,), and the losses where there are
        targets."""
        network = self.proposal_generator
        network.kept, network.generators = count, iter(generators or [])
        truth = [
            Instances(size, gt_boxes=Boxes(target.boxes))
            for size, target in zip(batch.image_sizes, targets or [], strict=targets is not None)
        ]
        was_training = network.training
        network.training = targets is not None  # whether it computes losses
        with EventStorage():  # where detectron2 leaves statistics
            found, losses = network(batch, dict(zip(network.in_features, features, strict=True)), truth)
        network.training = was_training
        boxes = [item.proposal_boxes.tensor for item in found]
        return boxes, [item.objectness_logits.sigmoid() for item in found], losses

    def _sampled(
        self, proposals: list[Tensor], targets: list[Target], generators: list[torch.Generator | None]
    ) -> _RoIs:
        """RoIs of the first stage: drawn from the proposals and the ground truth."""
        both = [torch.cat([box, target.boxes]) for box, target in zip(proposals, targets, strict=True)]
        rois = self._matched(0, both, targets)
        size, fraction = self.settings.roi_samples, self.settings.roi_positive_fraction
        drawn = [
            draw((label < self.num_classes).long(), size, fraction, generator)
            for label, generator in zip(rois.labels, generators, strict=True)
        ]
        return rois.only([positive | negative for positive, negative in drawn])

    def _matched(self, stage: int, boxes: list[Tensor], targets: list[Target]) -> _RoIs:
        """Labels of a stage's boxes; empty boxes are left out, and those that it takes for neither foreground
        nor background."""
        boxes = [box[Boxes(box).nonempty()] for box in boxes]
        rois = _RoIs(boxes, [], [])
        kept = []
        for box, target in zip(boxes, targets, strict=True):
            overlap = pairwise_iou(Boxes(target.boxes), Boxes(box))
            match, found = self.roi_heads.matchers[stage](overlap)
            if len(target.boxes) == 0:  # everything is background
                found = torch.zeros_like(found)
            label = torch.full_like(match, self.num_classes)
            label[found == 1] = target.labels[match[found == 1]]
            rois.labels.append(label)
            rois.matches.append(match)
            kept.append(found >= 0)
        return rois.only(kept)

    def _box_features(self, stage: int, features: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features as the classifier takes them, (N, D) or (N, D + P), and those of the regressor (N, D)."""
        head, classifier = self._box_heads[stage], self._classifier(stage)
        pooled = self.roi_heads.box_pooler(features[:4], [Boxes(box) for box in boxes]).flatten(start_dim=1)
        return box_head_features(head.fc1, head.fc2, pooled, classifier)

    @torch.no_grad()
    def _refined(
        self, stage: int, boxes: list[Tensor], deltas: Tensor, sizes: list[tuple[int, int]]
    ) -> list[Tensor]:
        """The boxes that a stage of a cascade hands to the next."""
        transform = self._box_predictors[stage].box2box_transform
        moved = transform.apply_deltas(deltas, torch.cat(boxes)).split([len(box) for box in boxes])
        # detectron2's own clipping refuses what is not finite
        return [clip_boxes_to_image(box, size) for box, size in zip(moved, sizes, strict=True)]

    def _mask_loss(self, features: list[Tensor], rois: _RoIs, targets: list[Target]) -> Tensor:
        """Mean binary cross entropy over foreground RoIs, whose targets are cut out as detectron2 does."""
        pooled = self.roi_heads.mask_pooler(features[:4], [Boxes(box) for box in rois.boxes])
        logits = self.roi_heads.mask_head.layers(pooled).float()
        if len(logits) == 0:
            return cast(Tensor, logits.sum() * 0)
        cut = ROIAlign((logits.shape[-1],) * 2, spatial_scale=1.0, sampling_ratio=0, aligned=True)
        shapes = []
        for target, box, match in zip(targets, rois.boxes, rois.matches, strict=True):
            assert target.masks is not None
            used, position = match.unique(return_inverse=True)  # full-size masks in float32 are large
            numbered = torch.cat([position[:, None].to(box), box], dim=1)
            shapes.append(cut(target.masks[used, None].float(), numbered)[:, 0] >= 0.5)
        chosen = of_label(logits, torch.cat(rois.labels))
        return F.binary_cross_entropy_with_logits(chosen, torch.cat(shapes).float())

    def _mask_probabilities(self, features: list[Tensor], boxes: Tensor, labels: Tensor) -> Tensor | None:
        """Probabilities (n, 1, M, M) of the detected category's channel, of one image."""
        if not self.settings.masks:
            return None
        found = []
        for box, label in zip(boxes.split(MASKS_AT_ONCE), labels.split(MASKS_AT_ONCE), strict=True):
            pooled = self.roi_heads.mask_pooler(features[:4], [Boxes(box)])
            logits = self.roi_heads.mask_head.layers(pooled).float()
            found.append(of_label(logits, label)[:, None].sigmoid())
        return torch.cat(found)

    def _paste(self, masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """detectron2's pasting: bilinear at pixel centres; 1 where the threshold is reached, else 0."""
        pasted: Tensor = paste_masks_in_image(masks[:, 0], boxes, size, self.test.mask_threshold)
        return pasted.float()


def _check(settings: Settings) -> None:
    where = "back end 'detectron2'"
    if settings.coordinates != "aligned":
        raise BenchmarkError(
            f"{where} has the coordinates of detectron2",
            found=f"coordinates: {settings.coordinates}",
            expected="coordinates: aligned",
            remedy="set it in the preset, as those of workflows/detectors/detectron2.yaml do",
        )
    if settings.architecture == "htc" or settings.deformable:
        raise BenchmarkError(
            f"{where} has no hybrid task cascade, and deformable convolutions for GPUs only",
            found=f"{settings.architecture}{', deformable' if settings.deformable else ''}",
            expected="Faster, Mask or Cascade R-CNN, not deformable",
            remedy="take the detector from back end mmdet",
        )
    if settings.stages > 1 and not settings.class_agnostic_boxes:
        raise BenchmarkError(
            f"cascades of {where} regress boxes for all categories alike",
            found="class_agnostic_boxes: false",
            expected="class_agnostic_boxes: true",
            remedy="set it in the preset, or take the detector from back end mmdet",
        )


def _truth(rois: _RoIs, targets: list[Target]) -> Tensor:
    """The ground-truth box (N, 4) of each RoI, or the RoI itself where the image has none."""
    return torch.cat(
        [
            target.boxes[match] if len(target.boxes) else box
            for target, match, box in zip(targets, rois.matches, rois.boxes, strict=True)
        ]
    )


def load_initial_weights(detector: Detectron2Detector, settings: Settings) -> None:
    """Copy what fits of the initial weights (see ``copy_fitting``): ImageNet's in torchvision's layout, or a
    file in detectron2's, of its model zoo (``.pkl``) or as it saves checkpoints.

    The order and scale of the input channels that a file of detectron2 is made for is folded into the first
    convolution. Where the file does not say, they are those of detectron2's own ResNets and ResNeXts.

    Raises:
        MissingDependencyError: the weights are not at hand and cannot be fetched, or cannot be read as data.
        BenchmarkError: not one tensor of the file fits, or the file is of models with their stride elsewhere.
    """
    if settings.init == "none":
        return
    path = settings.weights or ""
    state, author = (
        read_zoo(Path(path)) if path.endswith(".pkl") else (read_weights(settings, "detectron2"), "")
    )
    if any(name.startswith("layer1.") for name in state):  # torchvision's ResNets
        named = {
            DETECTRON2.theirs(f"backbone.body.{name}", "torchvision"): value for name, value in state.items()
        }
        state = {name: value for name, value in named.items() if name is not None}
        colours = Colours()
    else:
        state = _own_names(state)
        told = author != "torchvision"  # its ResNets under detectron2's names take what ours do
        colours = Colours.of_detectron2(state, settings.backbone) if told else Colours()
    if colours.stride_in_1x1 != settings.stride_in_1x1:
        raise BenchmarkError(
            "the initial weights are of models with their stride in another convolution",
            where=path or None,
            found=f"stride_in_1x1: {settings.stride_in_1x1}".lower(),
            expected=f"stride_in_1x1: {colours.stride_in_1x1}".lower(),
            remedy="set it in the preset, or take other weights",
        )
    if FIRST_CONVOLUTION in state:
        state[FIRST_CONVOLUTION] = colours.apply(state[FIRST_CONVOLUTION])
    copy_fitting(detector, state, settings, "torchvision's or detectron2's")


def _own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under detectron2's names of a detector, from those of Caffe2 or of a trunk alone."""
    if "conv1_w" in state:
        state, _ = convert_c2_detectron_names(state)
    trunk_only = re.compile(r"(stem|res[2-5])\.")
    return {
        f"backbone.bottom_up.{name}" if trunk_only.match(name) else name: value
        for name, value in state.items()
    }
