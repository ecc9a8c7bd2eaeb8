"""The two-stage detector that all back ends share: features, proposals, RoIs, heads, detections.

A back end provides the backbone, pyramid, heads, elementwise losses and RoIAlign of its framework. All other
code is here, so that with the same settings, weights, images and draws all back ends give the same losses,
gradients and detections (``tests/agreement``). Differences between frameworks are settings; a back end raises
an error for a setting that it does not support.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers import Classifier, NormedConv2d
from benchmark.classifiers.cosine import normed
from benchmark.detectors.boxes import (
    RPN_STDS,
    STRIDES,
    Size,
    anchors_of,
    clipped,
    decode,
    encode,
    padded,
    suppressed,
    usable,
)
from benchmark.detectors.initialisation import (
    convolutions,
    initialise_box_head,
    initialise_mask_head,
    initialise_proposal_head,
    initialise_pyramid,
)
from benchmark.detectors.interface import (
    POOLED_SIDE,
    ChooseRoIs,
    Detections,
    Detector,
    RoIBatch,
    TestFeatures,
    TrainingPass,
    head_prefix,
    image_numbers,
)
from benchmark.detectors.masks import mask_targets
from benchmark.detectors.matching import MatchingRule, draw, generator_of
from benchmark.detectors.pixels import PIXELS
from benchmark.detectors.postprocessing import in_original_pixels, select
from benchmark.detectors.roi_align import roi_align
from benchmark.errors import BenchmarkError
from benchmark.images import Target
from benchmark.recipes.detector_settings import DetectorSettings as Settings
from benchmark.recipes.models import TestSettings

MASK_SIDE = 14  # positions of the pooled features of masks along each side; masks have twice as many
SEMANTIC_STRIDE = 8  # pixels, of the features of an HTC's semantic branch
UNLABELLED = 255  # in stuff maps
FINEST_ROI = (
    56  # pixels; RoIs with the square root of their area from twice this size on use the second level
)
RPN_FOREGROUND, RPN_BACKGROUND, RPN_SUPPRESSION = 0.7, 0.3, 0.7  # IoU
RPN_POSITIVE_FRACTION = 0.5
HEAD_FOREGROUND = (0.5, 0.6, 0.7)  # IoU from which a RoI is foreground in each head of a cascade
HEAD_STDS = {
    "mmdet": ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
    "detectron2": (
        (1 / 10, 1 / 10, 1 / 5, 1 / 5),
        (1 / 20, 1 / 20, 1 / 10, 1 / 10),
        (1 / 30, 1 / 30, 1 / 15, 1 / 15),
    ),
}  # of box deltas, by ``cascade``


@dataclass
class _Pyramid:
    """A batch after the backbone: levels (N, channels, H, W) float32 from stride 4 to 64, stuff scores and
    features of the semantic branch if there is one, sizes of the images, and the padded size."""

    levels: list[Tensor]
    stuff: tuple[Tensor, Tensor] | None
    sizes: list[Size]
    canvas: Size


@dataclass
class _Anchors:
    """Anchors of all levels, with the proposal network's objectness (images, A) and deltas (images, A, 4)."""

    levels: list[Tensor]
    grids: list[Size]
    objectness: Tensor
    deltas: Tensor


class _BoxFeatures(NamedTuple):
    """Of a box head, for the RoIs of all images: what it takes (N, P), and features (N, D) before and after
    its last ReLU."""

    pooled: Tensor
    raw: Tensor
    activated: Tensor


@dataclass
class _TestHead:
    """A box head in testing: its boxes (n, 4) of each image, features, and box deltas (N, 4) or (N, 4 C)."""

    boxes: list[Tensor]
    features: _BoxFeatures
    deltas: Tensor


@dataclass
class _TestFeatures(TestFeatures):
    """A batch, the scores (n,) in [0, 1] of each image's proposals, and the box heads on these: all heads, or
    the first if the boxes of the next depend on the classifiers."""

    pyramid: _Pyramid
    objectness: list[Tensor]
    heads: list[_TestHead]


@dataclass
class _RoIs:
    """RoIs in training, with one entry per image: boxes (n, 4), labels (n,) in ``0..C``, numbers (n,) of the
    matched objects, and whether each RoI is itself a ground-truth box."""

    boxes: list[Tensor]
    labels: list[Tensor]
    matches: list[Tensor]
    truth: list[Tensor]

    def only(self, kept: Sequence[Tensor]) -> "_RoIs":
        """The RoIs that masks or indices select."""
        lists = (self.boxes, self.labels, self.matches, self.truth)
        return _RoIs(*([item[keep] for item, keep in zip(items, kept, strict=True)] for items in lists))


class TwoStageDetector(Detector):
    """A detector of the Faster R-CNN family behind ``benchmark.detectors.interface.Detector``.

    Args:
        settings: architecture and sizes.
        classifiers: one for each box head.
        test: thresholds of ``predict``.

    Raises:
        BenchmarkError: settings that the back end does not have.
    """

    roi_align: Callable[..., Tensor] = staticmethod(roi_align)
    """RoIAlign with torchvision's positional arguments: features, RoIs (n, 5), side, scale, samples,
    aligned."""

    def __init__(self, settings: Settings, classifiers: Sequence[Classifier], test: TestSettings) -> None:
        super().__init__(settings, test, classifiers[0].num_classes)
        self.build()
        self.classifiers = nn.ModuleList(classifiers)
        initialise_pyramid(convolutions(*self.pyramid_modules), settings)
        initialise_proposal_head(convolutions(self.proposal_head))
        for layers, regressor in zip(self.box_head_layers, self.box_regressors, strict=True):
            initialise_box_head(layers, regressor, settings)
        for head, predictor in zip(self.mask_heads, self.mask_predictors, strict=True):
            others = [layer for layer in convolutions(head) if layer is not predictor]
            initialise_mask_head(others, predictor, settings)

    # ---- to be implemented by back ends

    def build(self) -> None:
        """Make the modules under the framework's names; raises for settings that the back end does not
        support."""
        raise NotImplementedError

    @property
    def pyramid_modules(self) -> list[nn.Module]:
        """The feature pyramid's modules without the backbone."""
        raise NotImplementedError

    @property
    def proposal_head(self) -> nn.Module:
        """The proposal network's convolutions."""
        raise NotImplementedError

    @property
    def box_regressors(self) -> list[nn.Linear]:
        """The last box layer of each box head: 4 deltas for each category, or for all together."""
        raise NotImplementedError

    @property
    def mask_heads(self) -> list[nn.Module]:
        """The mask head of each box head, or one for all of a cascade; none in a Faster R-CNN."""
        raise NotImplementedError

    @property
    def mask_predictors(self) -> list[nn.Module]:
        """The last layer of each mask head: a 1x1 convolution with one channel for each category, or for all
        together."""
        raise NotImplementedError

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Five levels of normalised and padded images (N, 3, H, W)."""
        raise NotImplementedError

    def semantic(self, levels: list[Tensor]) -> tuple[Tensor, Tensor] | None:
        """Stuff scores (N, S, h, w) and features (N, channels, h, w) of stride 8; None without a semantic
        branch."""
        return None

    def proposal_outputs(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits (N, 3, h, w) and deltas (N, 12, h, w) of each level."""
        raise NotImplementedError

    def mask_features(self, head: int, pooled: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The input (n, channels, M, M) of the last layer of a mask head, and the features that an HTC passes
        to the next head; from pooled features (n, channels, 14, 14) and those that the head before passed on.
        """
        raise NotImplementedError

    def box_losses(self, deltas: Tensor, goals: Tensor, beta: float) -> Tensor:
        """Smooth L1 of every element; L1 if ``beta`` is 0."""
        return F.smooth_l1_loss(deltas, goals, beta=beta, reduction="none")

    def binary_losses(self, logits: Tensor, goals: Tensor) -> Tensor:
        """Binary cross entropy of every element."""
        return F.binary_cross_entropy_with_logits(logits, goals, reduction="none")

    def stuff_losses(self, scores: Tensor, categories: Tensor) -> Tensor:
        """Losses (N, h, w) of stuff scores; 0 for unlabelled pixels."""
        raise NotImplementedError

    # ---- common to all back ends

    @property
    def delta_columns(self) -> int:
        """Number of outputs of a box regressor: 4 deltas for each category, or for all together."""
        return 4 * (1 if self.settings.class_agnostic_boxes else self.num_classes)

    @property
    def mask_head_count(self) -> int:
        """Number of mask heads: one for each box head in a cascade of MMDetection's kind, else one."""
        return self.settings.box_head_count if self.settings.cascade == "mmdet" else 1

    def refuse_hybrid_and_deformable(self, lacking: str) -> None:
        """Raise for settings that only MMDetection supports; ``lacking`` describes them in the message."""
        settings = self.settings
        if settings.architecture == "htc" or settings.deformable:
            raise BenchmarkError(
                f"back end '{self.backend}' has {lacking}",
                found=f"{settings.architecture}{', deformable' if settings.deformable else ''}",
                expected="Faster, Mask or Cascade R-CNN, not deformable",
                remedy="take the detector from back end mmdet",
            )

    # ---- the interface of ``Detector``

    def train(self, mode: bool = True) -> Self:
        """Batch norms of frozen layers stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    def forward(
        self, images: list[Tensor], targets: list[Target], canvas: Size | None = None
    ) -> TrainingPass:
        """Losses of the proposal network, and of classifier, box regressor and mask head of each box head."""
        found = TrainingPass([], [], {}, {})
        pyramid = self._pyramid(images, canvas)
        anchors = self._anchors(pyramid)
        self._proposal_losses(found, pyramid, anchors, targets)
        if pyramid.stuff is not None:
            self._stuff_loss(found, pyramid.stuff[0], targets, pyramid.canvas)
        settings = self.settings
        boxes, _ = self._proposals(
            pyramid, anchors, settings.rpn_train_candidates, settings.rpn_train_proposals
        )
        rois = self._first_rois(boxes, targets)
        for head in range(settings.box_head_count):
            pooled = self._pooled_for_boxes(pyramid, rois.boxes)
            features = self._box_features(head, pooled)
            classified = self._classified(head, features)
            deltas = self.box_regressors[head](features.activated).float()
            found.logits.append(self._classifier(head)(classified).float())
            found.labels.append(torch.cat(rois.labels))
            self._box_loss(found, head, deltas, rois, targets)
            masked = rois
            if settings.architecture == "htc" or head + 1 < settings.box_head_count:
                refined = self._refined(head, pyramid, rois, deltas, classified)
                if settings.architecture == "htc":  # masks use the boxes that the box head has just refined
                    masked = self._drawn(head, refined, targets, f"RoIs of masks {head}")
            if head < len(self.mask_heads):
                self._mask_loss(found, head, pyramid, masked, targets)
            if head + 1 < settings.box_head_count:
                rois = self._next_rois(head + 1, refined, targets)
        return found

    @torch.no_grad()
    def box_features(
        self,
        images: list[Tensor],
        targets: list[Target],
        choose: ChooseRoIs | None = None,
        canvas: Size | None = None,
    ) -> list[RoIBatch]:
        """Features of RoIs proposed, sampled and refined as in training, in evaluation mode."""
        pyramid = self._pyramid(images, canvas)
        settings, anchors = self.settings, self._anchors(pyramid)
        boxes, _ = self._proposals(
            pyramid, anchors, settings.rpn_train_candidates, settings.rpn_train_proposals
        )
        rois = self._first_rois(boxes, targets)
        batches = []
        for head in range(settings.box_head_count):
            chosen = _chosen(rois.labels, choose)
            last = head + 1 == settings.box_head_count
            if last:  # no further head needs the RoIs that were not chosen
                rois, chosen = rois.only(chosen), [keep[keep] for keep in chosen]
            features = self._box_features(head, self._pooled_for_boxes(pyramid, rois.boxes))
            classified = self._classified(head, features)
            kept = torch.cat(chosen)
            parts = (classified, torch.cat(rois.labels), torch.cat(rois.boxes), image_numbers(rois.labels))
            batches.append(RoIBatch(*(part[kept] for part in parts)))
            if not last:
                deltas = self.box_regressors[head](features.activated).float()
                refined = self._refined(head, pyramid, rois, deltas, classified)
                rois = self._next_rois(head + 1, refined, targets)
        return batches

    @property
    def features_depend_on(self) -> Hashable:
        """The features that the classifiers take; their weights too, if they select class-specific boxes
        between the heads of a cascade."""
        if self.settings.box_head_count > 1 and not self.settings.class_agnostic_boxes:
            return self.classifiers
        own = [self._classifier(head) for head in range(self.settings.box_head_count)]
        return tuple((classifier.before_activation, classifier.takes_pooled) for classifier in own)

    @torch.no_grad()
    def ground_truth_features(self, images: list[Tensor], targets: list[Target]) -> list[RoIBatch]:
        """Features of the ground-truth boxes as they are, in every head, in evaluation mode."""
        pyramid = self._pyramid(images, None)
        boxes, labels = [target.boxes for target in targets], [target.labels for target in targets]
        pooled = self._pooled_for_boxes(pyramid, boxes)
        return [
            RoIBatch(
                self._classified(head, self._box_features(head, pooled)),
                torch.cat(labels),
                torch.cat(boxes),
                image_numbers(labels),
            )
            for head in range(self.settings.box_head_count)
        ]

    @torch.no_grad()
    def test_features(self, images: list[Tensor]) -> TestFeatures:
        """Pyramid, proposals, and the box heads whose boxes do not depend on a classifier."""
        settings, pyramid = self.settings, self._pyramid(images, None)
        anchors = self._anchors(pyramid)
        boxes, objectness = self._proposals(
            pyramid, anchors, settings.rpn_test_candidates, settings.rpn_test_proposals
        )
        heads = [self._test_head(0, pyramid, boxes)]
        for head in range(1, settings.box_head_count if settings.class_agnostic_boxes else 1):
            heads.append(self._next_test_head(head, pyramid, heads[-1]))
        return _TestFeatures(pyramid, objectness, heads)

    @torch.no_grad()
    def detections(self, features: TestFeatures, sizes: list[Size]) -> list[Detections]:
        """The LVIS protocol: score threshold, suppression per category, cap per image, masks."""
        assert isinstance(features, _TestFeatures)
        settings, pyramid, heads = self.settings, features.pyramid, list(features.heads)
        logits: list[Tensor] = []
        for head in range(settings.box_head_count):
            if head == len(heads):
                heads.append(self._next_test_head(head, pyramid, heads[-1]))
            logits.append(self._classifier(head)(self._classified(head, heads[head].features)).float())
        last = heads[-1]
        decoded = decode(
            torch.cat(last.boxes), last.deltas.unflatten(1, (-1, 4)), self._stds(head), settings.framework
        )
        scores = self._classifier(-1).detection_scores(
            logits,
            torch.cat(features.objectness),
            "scores" if settings.cascade == "detectron2" else "logits",
        )
        counts = [len(item) for item in last.boxes]
        kept = [
            select(clipped(own, size, settings.coordinates), score, self.test)
            for own, score, size in zip(
                decoded.split(counts), scores.split(counts), pyramid.sizes, strict=True
            )
        ]
        masks: Sequence[tuple[Tensor, Tensor] | None] = [None] * len(kept)
        if settings.masks:
            masks = self._mask_probabilities(pyramid, [box for box, _, _ in kept], [y for _, y, _ in kept])
        return [
            in_original_pixels(
                item, mask, settings, self.test.mask_threshold, from_size=given, to_size=original
            )
            for item, mask, given, original in zip(kept, masks, pyramid.sizes, sizes, strict=True)
        ]

    # ---- features

    def _pyramid(self, images: list[Tensor], canvas: Size | None) -> _Pyramid:
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = canvas or padded((max(size[0] for size in sizes), max(size[1] for size in sizes)))
        normalised = [PIXELS[self.settings.pixels].normalised(image) for image in images]
        batch = torch.stack(
            [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in normalised]
        )
        # RoIAlign takes boxes in the type of the features, and bfloat16 has a resolution of 8 pixels above
        # 1024
        levels = [level.float() for level in self.pyramid(batch)]
        stuff = self.semantic(levels)
        if stuff is not None:
            stuff = (stuff[0].float(), stuff[1].float())
        return _Pyramid(levels, stuff, sizes, (height, width))

    def _pooled(self, pyramid: _Pyramid, boxes: list[Tensor], side: int) -> Tensor:
        """RoIAlign features (n, channels, side, side), from the level for the size of each box."""
        rois = _numbered(boxes)
        sizes = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
        fitting = (sizes / FINEST_ROI + 1e-6).log2().floor().clamp(0, 3)
        chosen = [(fitting == number).nonzero().squeeze(1) for number in range(4)]
        pooled = torch.cat(
            [
                self._aligned(level, rois[own], side, stride)
                for level, own, stride in zip(pyramid.levels, chosen, STRIDES, strict=False)
            ]
        )
        return torch.zeros_like(pooled).index_copy(0, torch.cat(chosen), pooled)

    def _aligned(self, level: Tensor, rois: Tensor, side: int, stride: int) -> Tensor:
        """RoIAlign of one level at RoIs (n, 5), with pixel positions as in the setting ``coordinates``."""
        how = self.settings.coordinates
        if how == "mmdet_v1":  # its pixels are at i, those of ``aligned`` at i + 0.5
            rois = rois + rois.new_tensor([0, 0.5, 0.5, 0.5, 0.5]) * stride
        samples = 0 if how == "aligned" else 2
        return self.roi_align(level, rois, side, 1 / stride, samples, how != "torchvision")

    def _pooled_for_boxes(self, pyramid: _Pyramid, boxes: list[Tensor]) -> Tensor:
        pooled = self._pooled(pyramid, boxes, POOLED_SIDE)
        if pyramid.stuff is not None:
            wide = self._aligned(pyramid.stuff[1], _numbered(boxes), MASK_SIDE, SEMANTIC_STRIDE)
            pooled = pooled + F.adaptive_avg_pool2d(wide, POOLED_SIDE)
        if self.settings.cascade == "detectron2" and self.settings.box_head_count > 1:
            pooled = _with_less_gradient(pooled, 1 / self.settings.box_head_count)
        return pooled

    def _box_features(self, head: int, pooled: Tensor) -> _BoxFeatures:
        first, second = self.box_head_layers[head]
        flat = pooled.flatten(start_dim=1)
        raw = second(F.relu(first(flat)))
        return _BoxFeatures(flat, raw, F.relu(raw))

    def _classified(self, head: int, features: _BoxFeatures) -> Tensor:
        """Features as the classifier takes them, (N, D) or (N, D + P)."""
        classifier = self._classifier(head)
        own = features.raw if classifier.before_activation else features.activated
        return torch.cat([own, features.pooled], dim=1) if classifier.takes_pooled else own

    def _test_head(self, head: int, pyramid: _Pyramid, boxes: list[Tensor]) -> _TestHead:
        features = self._box_features(head, self._pooled_for_boxes(pyramid, boxes))
        return _TestHead(boxes, features, self.box_regressors[head](features.activated).float())

    def _next_test_head(self, head: int, pyramid: _Pyramid, before: _TestHead) -> _TestHead:
        """The next head of a cascade, on the boxes that the head ``before`` refined."""
        classified = self._classified(head - 1, before.features)
        boxes = self._moved(head - 1, pyramid, before.boxes, before.deltas, classified)
        return self._test_head(head, pyramid, boxes)

    def _classifier(self, head: int) -> Classifier:
        return cast(Classifier, self.classifiers[head])

    # ---- proposals

    def _anchors(self, pyramid: _Pyramid) -> _Anchors:
        objectness, deltas = self.proposal_outputs(pyramid.levels)
        grids = [(level.shape[2], level.shape[3]) for level in objectness]
        settings, device = self.settings, objectness[0].device
        levels = anchors_of(settings.anchor_sizes, grids, pyramid.canvas, settings.coordinates, device)
        count = len(pyramid.sizes)
        return _Anchors(
            levels,
            grids,
            torch.cat([level.float().permute(0, 2, 3, 1).reshape(count, -1) for level in objectness], dim=1),
            torch.cat([level.float().permute(0, 2, 3, 1).reshape(count, -1, 4) for level in deltas], dim=1),
        )

    @torch.no_grad()
    def _proposals(
        self, pyramid: _Pyramid, anchors: _Anchors, candidates: int, most: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes (n, 4) of each image and their scores (n,) in [0, 1], best first: at most ``candidates`` of a
        level, ``most`` of an image."""
        found, objectness = [], []
        boxes, counts = torch.cat(anchors.levels), [len(level) for level in anchors.levels]
        best, levels, start = [], [], 0
        for number, scores in enumerate(anchors.objectness.split(counts, dim=1)):
            best.append(start + scores.topk(min(candidates, counts[number])).indices)
            levels.append(torch.full_like(best[-1][0], number))
            start += counts[number]
        chosen, level_of = torch.cat(best, dim=1), torch.cat(levels)
        image = torch.arange(len(chosen), device=chosen.device)[:, None]
        moved = decode(
            boxes[chosen.flatten()],
            anchors.deltas[image, chosen].flatten(0, 1)[:, None],
            RPN_STDS,
            self.settings.framework,
        )
        every = zip(
            moved.view(len(chosen), -1, 4), anchors.objectness.gather(1, chosen), pyramid.sizes, strict=True
        )
        for box, score, size in every:
            box, level = clipped(box, size, self.settings.coordinates), level_of
            # leave out values that are not finite: divergence shows in the losses
            good = (
                (box[:, 2:] > box[:, :2]).all(dim=1) & box.isfinite().all(dim=1) & score.isfinite()
            ).nonzero()
            box, score, level = box[good[:, 0]], score[good[:, 0]], level[good[:, 0]]
            kept = suppressed(box, score, level, RPN_SUPPRESSION, most)
            found.append(box[kept])
            objectness.append(score[kept].sigmoid())
        return found, objectness

    def _proposal_losses(
        self, found: TrainingPass, pyramid: _Pyramid, anchors: _Anchors, targets: list[Target]
    ) -> None:
        """Add the losses of objectness for sampled anchors, and of boxes for foreground anchors."""
        settings = self.settings
        rule = MatchingRule(
            RPN_FOREGROUND,
            RPN_BACKGROUND,
            low_quality=settings.rpn_low_quality_iou,
            own_targets=settings.low_quality_targets == "own",
        )
        boxes = torch.cat(anchors.levels)
        objectness, goals, deltas, box_goals = [], [], [], []
        for number, (target, size) in enumerate(zip(targets, pyramid.sizes, strict=True)):
            flags = usable(anchors.levels, anchors.grids, size, settings.anchors_used)
            places = torch.arange(len(boxes), device=boxes.device) if flags is None else flags.nonzero()[:, 0]
            matches, kinds = rule.match(boxes[places], target.boxes)
            drawn = draw(kinds, settings.rpn_samples, RPN_POSITIVE_FRACTION, generator_of(target, "anchors"))
            positive = drawn[kinds[drawn] == 1]
            objectness.append(anchors.objectness[number, places[drawn]])
            goals.append((kinds[drawn] == 1).float())
            deltas.append(anchors.deltas[number, places[positive]])
            truth = target.boxes[matches[positive]]
            box_goals.append(encode(boxes[places[positive]], truth, RPN_STDS))
        logits = torch.cat(objectness)
        count = len(logits) if settings.rpn_loss_divisor == "drawn" else settings.rpn_samples * len(targets)
        _add(found, "loss_rpn_objectness", self.binary_losses(logits, torch.cat(goals)), count)
        box_losses = self.box_losses(torch.cat(deltas), torch.cat(box_goals), settings.rpn_smooth_l1_beta)
        _add(found, "loss_rpn_box", box_losses, count)

    def _stuff_loss(self, found: TrainingPass, scores: Tensor, targets: list[Target], canvas: Size) -> None:
        """Add the stuff loss, a mean over the labelled pixels."""
        maps = []
        for target in targets:
            assert target.stuff is not None
            height, width = (whole - own for whole, own in zip(canvas, target.stuff.shape, strict=True))
            maps.append(F.pad(target.stuff, (0, width, 0, height), value=UNLABELLED))
        small = F.interpolate(torch.stack(maps)[:, None].float(), scale_factor=1 / SEMANTIC_STRIDE)
        categories = small[:, 0].long()
        count = (categories != UNLABELLED).sum()
        _add(found, "loss_semantic_seg", self.stuff_losses(scores, categories), count)

    # ---- RoIs

    def _stds(self, head: int) -> tuple[float, ...]:
        return HEAD_STDS[self.settings.cascade][head]

    def _first_rois(self, proposals: list[Tensor], targets: list[Target]) -> _RoIs:
        nothing = [torch.zeros_like(box[:, 0], dtype=torch.int64) for box in proposals]
        return self._drawn(0, _RoIs(proposals, nothing, nothing, nothing), targets, "RoIs 0")

    def _drawn(self, head: int, rois: _RoIs, targets: list[Target], purpose: str) -> _RoIs:
        """RoIs sampled from boxes and the ground truth, with their labels."""
        boxes = [torch.cat([own, target.boxes]) for own, target in zip(rois.boxes, targets, strict=True)]
        truth = [
            torch.arange(len(both), device=both.device) >= len(own)
            for both, own in zip(boxes, rois.boxes, strict=True)
        ]
        labelled, kinds = self._labelled(head, boxes, truth, targets)
        size, fraction = self.settings.roi_samples, self.settings.roi_positive_fraction
        return labelled.only(
            [
                draw(kind, size, fraction, generator_of(target, purpose))
                for kind, target in zip(kinds, targets, strict=True)
            ]
        )

    def _next_rois(self, head: int, refined: _RoIs, targets: list[Target]) -> _RoIs:
        """The RoIs of the next head of a cascade: sampled again from refined ones, or all of them with new
        labels."""
        if self.settings.cascade == "mmdet":
            return self._drawn(head, refined, targets, f"RoIs {head}")
        solid = refined.only([(box[:, 2:] > box[:, :2]).all(dim=1) for box in refined.boxes])
        labelled, kinds = self._labelled(head, solid.boxes, solid.truth, targets)
        return labelled.only([kind >= 0 for kind in kinds])

    def _labelled(
        self, head: int, boxes: list[Tensor], truth: list[Tensor], targets: list[Target]
    ) -> tuple[_RoIs, list[Tensor]]:
        """RoIs with their labels, and their kinds (see ``MatchingRule.match``)."""
        settings, foreground = self.settings, HEAD_FOREGROUND[head]
        floor = settings.roi_low_quality_iou
        rule = MatchingRule(
            foreground,
            foreground,
            nearest=settings.roi_background_min_iou,
            low_quality=None if floor is None else max(floor, foreground),
            own_targets=settings.low_quality_targets == "own",
        )
        rois, kinds = _RoIs(boxes, [], [], truth), []
        for box, target in zip(boxes, targets, strict=True):
            matches, kind = rule.match(box, target.boxes)
            label = torch.full_like(matches, self.num_classes)
            label[kind == 1] = target.labels[matches[kind == 1]]
            rois.labels.append(label)
            rois.matches.append(matches)
            kinds.append(kind)
        return rois, kinds

    def _box_loss(
        self, found: TrainingPass, head: int, deltas: Tensor, rois: _RoIs, targets: list[Target]
    ) -> None:
        """Add the box loss, a sum over foreground RoIs divided by the number of all RoIs."""
        labels = torch.cat(rois.labels)
        foreground = (labels < self.num_classes).nonzero().squeeze(1)
        own = deltas.unflatten(1, (-1, 4))[foreground, self._column(labels[foreground])]
        only = rois.only([label < self.num_classes for label in rois.labels])
        truth = [target.boxes[match] for target, match in zip(targets, only.matches, strict=True)]
        goals = encode(torch.cat(only.boxes), torch.cat(truth), self._stds(head))
        name = f"{head_prefix(head, self.settings.box_head_count)}loss_box"
        _add(found, name, self.box_losses(own, goals, self.settings.smooth_l1_beta), len(labels))

    def _column(self, labels: Tensor) -> Tensor:
        return torch.zeros_like(labels) if self.settings.class_agnostic_boxes else labels

    @torch.no_grad()
    def _refined(
        self, head: int, pyramid: _Pyramid, rois: _RoIs, deltas: Tensor, classified: Tensor
    ) -> _RoIs:
        """The refined RoIs of a head for the next one; without ground-truth boxes if they are sampled
        again."""
        labels = torch.cat(rois.labels)
        moved = self._moved(head, pyramid, rois.boxes, deltas, classified, labels)
        refined = _RoIs(moved, rois.labels, rois.matches, rois.truth)
        return (
            refined if self.settings.cascade == "detectron2" else refined.only([~own for own in rois.truth])
        )

    @torch.no_grad()
    def _moved(
        self,
        head: int,
        pyramid: _Pyramid,
        boxes: list[Tensor],
        deltas: Tensor,
        classified: Tensor,
        labels: Tensor | None = None,
    ) -> list[Tensor]:
        """Boxes after a head's regressor; class-specific ones use the true label, or else the best one."""
        column = torch.zeros_like(deltas[:, 0], dtype=torch.int64)
        if not self.settings.class_agnostic_boxes:
            classifier = self._classifier(head)
            column = classifier.scores(classifier(classified).float())[:, :-1].argmax(dim=1)
            if labels is not None:
                column = torch.where(labels < self.num_classes, labels, column)
        own = deltas.unflatten(1, (-1, 4))[torch.arange(len(deltas), device=deltas.device), column]
        moved = decode(torch.cat(boxes), own[:, None], self._stds(head), self.settings.framework)[:, 0]
        return [
            clipped(box, size, self.settings.coordinates)
            for box, size in zip(moved.split([len(box) for box in boxes]), pyramid.sizes, strict=True)
        ]

    # ---- masks

    def _mask_features(
        self, pyramid: _Pyramid, boxes: list[Tensor], heads: Iterable[int]
    ) -> Iterator[Tensor]:
        """The input (n, channels, M, M) of the last layer of each mask head in ``heads``, which ascend."""
        pooled = self._pooled(pyramid, boxes, MASK_SIDE)
        if pyramid.stuff is not None:
            pooled = pooled + self._aligned(pyramid.stuff[1], _numbered(boxes), MASK_SIDE, SEMANTIC_STRIDE)
        wanted, before = set(heads), None
        chained = self.settings.architecture == "htc"  # each mask head takes features of the one before
        for head in range(max(wanted) + 1):
            if head in wanted or chained:
                features, carried = self.mask_features(head, pooled, before)
                before = carried if chained else None
            if head in wanted:
                yield features

    def _mask_logits(self, head: int, features: Tensor, labels: Tensor) -> Tensor:
        """Logits (n, M, M) of the labels' channels in a mask head, or of its only channel."""
        column = labels
        if self.settings.class_agnostic_masks:
            column = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        return _of_channel(self.mask_predictors[head], features, column).float()

    def _mask_loss(
        self, found: TrainingPass, head: int, pyramid: _Pyramid, rois: _RoIs, targets: list[Target]
    ) -> None:
        """Add the mask loss, a mean over the foreground RoIs."""
        only = rois.only([label < self.num_classes for label in rois.labels])
        (features,) = self._mask_features(pyramid, only.boxes, [head])
        logits = self._mask_logits(head, features, torch.cat(only.labels))
        goals = torch.cat(
            [
                mask_targets(target, box, match, logits.shape[-1])
                for target, box, match in zip(targets, only.boxes, only.matches, strict=True)
            ]
        )
        losses = self.binary_losses(logits, goals).flatten(start_dim=1).mean(dim=1)
        _add(found, f"{head_prefix(head, len(self.mask_heads))}loss_mask", losses, len(losses))

    def _mask_probabilities(
        self, pyramid: _Pyramid, boxes: list[Tensor], labels: list[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Of each image, the masks (m, M, M) as probabilities, averaged over the heads of a cascade, and
        which of these each detection has, (n,) int64.

        A proposal is often detected as several categories. Where they share its box, the features are
        computed once, and so is the mask if they share that too.
        """
        each = [torch.arange(len(box), device=box.device) for box in boxes]
        boxes, owners = _distinct(boxes) if self.settings.class_agnostic_boxes else (boxes, each)
        counts, shared, logits = [len(box) for box in boxes], self.settings.class_agnostic_masks, []
        for head, features in enumerate(self._mask_features(pyramid, boxes, range(len(self.mask_heads)))):
            if not shared:
                own = zip(features.split(counts), owners, strict=True)
                features = torch.cat([of_boxes[owner] for of_boxes, owner in own])
            logits.append(self._mask_logits(head, features, torch.cat(labels)))
        found = torch.stack([item.sigmoid() for item in logits]).mean(dim=0)
        if not shared:
            counts, owners = [len(own) for own in each], each
        return list(zip(found.split(counts), owners, strict=True))


def _distinct(boxes: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The distinct boxes of each image (m, 4), and which of them each box is, (n,) int64."""
    found = [torch.unique(box, dim=0, return_inverse=True) for box in boxes]
    return [distinct for distinct, _ in found], [owner for _, owner in found]


def _numbered(boxes: list[Tensor]) -> Tensor:
    """RoIs (N, 5): the image's number, then the box."""
    return torch.cat([F.pad(box, (1, 0), value=number) for number, box in enumerate(boxes)])


def _chosen(labels: list[Tensor], choose: ChooseRoIs | None) -> list[Tensor]:
    """Masks of the RoIs that ``choose`` keeps, one per image."""
    if choose is None:
        return [torch.ones_like(label, dtype=torch.bool) for label in labels]
    flat = torch.cat(labels)
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept[choose(flat, image_numbers(labels))] = True
    return list(kept.split([len(label) for label in labels]))


def _add(found: TrainingPass, name: str, losses: Tensor, count: Any) -> None:
    found.sums[name] = losses.sum()
    found.counts[name] = torch.as_tensor(count, dtype=torch.float32, device=losses.device)


def _with_less_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values, with their gradient multiplied by ``factor``."""
    fixed = values.detach()
    return fixed + factor * (values - fixed)


def _of_channel(predictor: nn.Module, features: Tensor, columns: Tensor) -> Tensor:
    """Logits (n, M, M) of one channel per item of a 1x1 convolution of features (n, channels, M, M).

    Logits of all categories would take most of a training's memory.
    """
    weight, bias = cast(Tensor, predictor.weight)[:, :, 0, 0], cast(Tensor, predictor.bias)
    if isinstance(predictor, NormedConv2d):
        features = predictor.temperature * normed(features, 1, predictor.power)
        weight = normed(weight, 1, predictor.power)
    own = torch.bmm(weight[columns, None], features.flatten(start_dim=2))[:, 0]
    return (own + bias[columns, None]).unflatten(1, features.shape[2:])
