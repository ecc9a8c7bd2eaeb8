"""Faster and Mask R-CNN with a feature pyramid, from torchvision's parts and with any classifier."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.detection import roi_heads as tv_roi_heads
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, batched_nms
from torchvision.ops import boxes as box_ops
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from benchmark.classifiers import Classifier, NormedConv2d
from benchmark.detectors.checkpoints import why_unreadable
from benchmark.detectors.interface import POOLED_SIDE, ChooseRoIs, Detections, RoIBatch
from benchmark.errors import BenchmarkError, MissingDependencyError
from benchmark.images import Target
from benchmark.processes import over_processes
from benchmark.recipes.models import HUB_COCO_BACKBONES, TestSettings
from benchmark.recipes.models import Detector as Settings

IMAGE_MEAN, IMAGE_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of torchvision's ImageNet weights
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
FEATURE_LEVELS = ["0", "1", "2", "3"]
MASKS_PASTED_AT_ONCE = 32  # bounds the memory of full-size float masks

_RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int], dict[str, int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2], {}),
    "resnet50": (Bottleneck, [3, 4, 6, 3], {}),
    "resnet101": (Bottleneck, [3, 4, 23, 3], {}),
    "resnext101_64x4d": (Bottleneck, [3, 4, 23, 3], {"groups": 64, "width_per_group": 4}),
}
_COCO_MODELS = {"faster_rcnn": "fasterrcnn_{}_fpn", "mask_rcnn": "maskrcnn_{}_fpn"}

# torchvision's published COCO files predate its blocks of convolution and norm
_OLD_NAMES = [
    (r"^(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^roi_heads\.mask_head\.mask_fcn1\.", "roi_heads.mask_head.0.0."),
    (r"^roi_heads\.mask_head\.mask_fcn2\.", "roi_heads.mask_head.1.0."),
    (r"^roi_heads\.mask_head\.mask_fcn3\.", "roi_heads.mask_head.2.0."),
    (r"^roi_heads\.mask_head\.mask_fcn4\.", "roi_heads.mask_head.3.0."),
]


class _NarrowResNet(ResNet):
    """torchvision's ResNet with the channels of its residual stages multiplied by a factor."""

    def __init__(self, *args: object, width: float, **kwargs: object) -> None:
        self._width_factor = width
        super().__init__(*args, **kwargs)

    def _make_layer(self, block: object, planes: int, *args: object, **kwargs: object) -> nn.Sequential:
        return super()._make_layer(block, max(8, round(planes * self._width_factor)), *args, **kwargs)


class _FrozenStatisticsNorm(nn.BatchNorm2d):
    """Batch norm that always uses its stored mean and variance; scale and shift are ordinary parameters."""

    def train(self, mode: bool = True) -> "_FrozenStatisticsNorm":
        super().train(False)
        return self


_NORMS = {
    "frozen": FrozenBatchNorm2d,
    "frozen_statistics": _FrozenStatisticsNorm,
    "batch": nn.BatchNorm2d,
}


def _backbone(settings: Settings) -> BackboneWithFPN:
    block, layers, grouping = _RESNETS[settings.backbone]
    norm = _NORMS[settings.norm]
    body = _NarrowResNet(block, layers, norm_layer=norm, width=settings.width, **grouping)
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


class _Anchors(AnchorGenerator):
    """Anchors in float32, in mixed precision too: bfloat16 knows only every eighth pixel beyond 1024."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        # of the features only sizes, type and device are used
        return list(super().forward(image_list, [level[:1, :1].float() for level in feature_maps]))


class _ProposalHead(RPNHead):
    """Objectness and deltas in float32, because boxes are decoded in the type of the deltas."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        objectness, deltas = super().forward(x)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class _ImageSampler:
    """Draws foreground and background of each image with the image's own generator.

    Called as torchvision's ``BalancedPositiveNegativeSampler`` is; ``generators`` are set before, one for
    each image, None for the default generator.
    """

    def __init__(self, size: int, positive_fraction: float) -> None:
        self.size, self.positives = size, int(size * positive_fraction)
        self.generators: list[torch.Generator | None] = []

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the drawn foreground (label above 0) and background (0), one pair for each image."""
        masks = [self._draw(*pair) for pair in zip(labels, self.generators, strict=True)]
        return [positive for positive, _ in masks], [negative for _, negative in masks]

    def _draw(self, label: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        positive, negative = torch.zeros((2, len(label)), dtype=torch.bool, device=label.device)
        left = self.size
        for mask, candidates, most in (
            (positive, label > 0, self.positives),
            (negative, label == 0, self.size),
        ):
            found = candidates.nonzero().squeeze(1)
            order = torch.randperm(len(found), generator=generator, device=label.device)
            drawn = found[order[: min(most, left)]]
            mask[drawn] = True
            left -= len(drawn)
        return positive, negative


class _BoxHeads(tv_roi_heads.RoIHeads):
    """RoI pooling, box and mask heads under torchvision's parameter names; sampling is inherited."""

    def __init__(self, settings: Settings, num_classes: int) -> None:
        width = settings.box_head_width
        super().__init__(
            box_roi_pool=MultiScaleRoIAlign(FEATURE_LEVELS, output_size=POOLED_SIDE, sampling_ratio=2),
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
        if settings.architecture == "mask_rcnn":
            channels = settings.mask_channels
            self.mask_roi_pool = MultiScaleRoIAlign(FEATURE_LEVELS, output_size=14, sampling_ratio=2)
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


class TorchvisionDetector(nn.Module):
    """A two-stage detector behind ``benchmark.detectors.interface.Detector``.

    Args:
        settings: architecture and sizes.
        classifier: box classification layer for C categories.
        test: thresholds of ``predict``.
    """

    def __init__(self, settings: Settings, classifier: Classifier, test: TestSettings) -> None:
        super().__init__()
        self.settings, self.test = settings, test
        self.num_classes = classifier.num_classes
        # images come in their final size: only normalisation and padding are used
        self.images = GeneralizedRCNNTransform(
            settings.test_short_edge, settings.long_edge, IMAGE_MEAN, IMAGE_STD
        )
        self.backbone = _backbone(settings)
        ratios = ((0.5, 1.0, 2.0),) * len(settings.anchor_sizes)
        anchors = _Anchors(tuple((size,) for size in settings.anchor_sizes), ratios)
        kept = {"training": settings.rpn_train_proposals, "testing": settings.rpn_test_proposals}
        self.rpn = RegionProposalNetwork(
            anchors,
            _ProposalHead(settings.fpn_channels, 3),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=settings.rpn_samples,
            positive_fraction=0.5,
            pre_nms_top_n=kept,
            post_nms_top_n=kept,
            nms_thresh=0.7,
        )
        self.rpn.fg_bg_sampler = _ImageSampler(settings.rpn_samples, positive_fraction=0.5)
        self.roi_heads = _BoxHeads(settings, self.num_classes)
        self.classifiers = nn.ModuleList([classifier])

    @property
    def box_head_layers(self) -> list[nn.Linear]:
        """The two layers of the box head."""
        return [self.roi_heads.box_head.fc6, self.roi_heads.box_head.fc7]

    @property
    def _classifier(self) -> Classifier:
        return cast(Classifier, self.classifiers[0])

    def forward(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """``losses``; the name that data-parallel wrappers call."""
        return self.losses(images, targets)

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
        if self.settings.architecture == "mask_rcnn":
            mask_loss = self._mask_loss(features, proposals, matches, labels, tv_targets, batch.image_sizes)
            losses |= over_processes({"loss_mask": mask_loss}, (y < self.num_classes).sum())
        losses["loss_rpn_objectness"] = losses.pop("loss_objectness")
        losses["loss_rpn_box"] = losses.pop("loss_rpn_box_reg")
        return losses

    @torch.no_grad()
    def box_features(
        self, images: list[Tensor], targets: list[Target], choose: ChooseRoIs | None = None
    ) -> RoIBatch:
        """Features of RoIs proposed and sampled as in training, the network otherwise in evaluation mode."""
        batch, features, tv_targets = self._features(images, targets)
        proposals = self._proposals(batch, features)
        proposals, _, labels, _ = self._sample(proposals, tv_targets)
        if choose is not None:
            counts = [len(label) for label in labels]
            kept = torch.zeros(sum(counts), dtype=torch.bool, device=labels[0].device)
            kept[choose(torch.cat(labels), _image_numbers(labels))] = True
            masks = kept.split(counts)
            proposals = [boxes[mask] for boxes, mask in zip(proposals, masks, strict=True)]
            labels = [label[mask] for label, mask in zip(labels, masks, strict=True)]
        return self._roi_batch(batch, features, proposals, labels)

    @torch.no_grad()
    def ground_truth_features(self, images: list[Tensor], targets: list[Target]) -> RoIBatch:
        """Features of the ground-truth boxes as they are, in evaluation mode."""
        batch, features, _ = self._features(images, targets)
        boxes, labels = [target.boxes for target in targets], [target.labels for target in targets]
        return self._roi_batch(batch, features, boxes, labels)

    @torch.no_grad()
    def predict(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> list[Detections]:
        """LVIS protocol: score threshold, suppression per category, best of the image, masks of those."""
        batch, features, _ = self._features(images, None)
        proposals, _ = self.rpn(batch, features)
        classified, box_features = self._box_features(features, proposals, batch.image_sizes)
        scores = self._classifier.scores(self._classifier(classified).float())
        deltas = self.roi_heads.box_regressor(box_features).float()
        # (N, categories or 1, 4), whatever the number of columns
        boxes = self.roi_heads.box_coder.decode(deltas, proposals)
        counts = [len(item) for item in proposals]
        kept = [
            self._select(b, s, size)
            for b, s, size in zip(boxes.split(counts), scores.split(counts), batch.image_sizes, strict=True)
        ]
        masks: list[Tensor | None] = [None] * len(kept)
        if self.settings.architecture == "mask_rcnn":
            masks = list(self._mask_probabilities(features, kept, batch.image_sizes))
        return [
            self._finish(*item, mask, from_size=given, to_size=original)
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

    def _proposals(self, batch: ImageList, features: OrderedDict[str, Tensor]) -> list[Tensor]:
        """Proposals in the numbers of training, without the losses that ``rpn`` would compute."""
        levels = list(features.values())
        objectness, deltas = self.rpn.head(levels)
        anchors = self.rpn.anchor_generator(batch, levels)
        per_level = [level[0].shape.numel() for level in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = self.rpn.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
        was_training = self.rpn.training
        self.rpn.training = True
        proposals, _ = self.rpn.filter_proposals(boxes, objectness, batch.image_sizes, per_level)
        self.rpn.training = was_training
        return list(proposals)

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
        raw = head.fc7(F.relu(head.fc6(pooled)))
        activated = F.relu(raw)
        classified = raw if self._classifier.before_activation else activated
        if self._classifier.takes_pooled:
            classified = torch.cat([classified, pooled], dim=1)
        return classified, activated

    def _roi_batch(
        self,
        batch: ImageList,
        features: OrderedDict[str, Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
    ) -> RoIBatch:
        classified, _ = self._box_features(features, boxes, batch.image_sizes)
        return RoIBatch(classified, torch.cat(labels), torch.cat(boxes), _image_numbers(labels))

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
        column = self._mask_column(torch.cat([label[f] for label, f in zip(labels, foreground, strict=True)]))
        chosen = logits[torch.arange(len(logits), device=logits.device), column]
        return F.binary_cross_entropy_with_logits(chosen, torch.cat(shapes))

    def _mask_column(self, labels: Tensor) -> Tensor:
        return torch.zeros_like(labels) if self.settings.class_agnostic_masks else labels

    def _mask_logits(
        self, features: OrderedDict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> Tensor:
        pooled = self.roi_heads.mask_roi_pool(features, boxes, sizes)
        logits: Tensor = self.roi_heads.mask_predictor(self.roi_heads.mask_head(pooled))
        return logits

    def _select(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (n, 4), labels and scores that survive threshold, suppression and the cap, best first."""
        boxes = box_ops.clip_boxes_to_image(boxes, size)
        roi, label = (scores[:, : self.num_classes] > self.test.score_threshold).nonzero(as_tuple=True)
        chosen = boxes[roi, label if boxes.shape[1] > 1 else 0]
        score = scores[roi, label]
        solid = box_ops.remove_small_boxes(chosen, min_size=1e-2)
        chosen, label, score = chosen[solid], label[solid], score[solid]
        keep = batched_nms(chosen, score, label, self.test.nms_threshold)[: self.test.max_detections]
        return chosen[keep], label[keep], score[keep]

    def _mask_probabilities(
        self,
        features: OrderedDict[str, Tensor],
        kept: list[tuple[Tensor, Tensor, Tensor]],
        sizes: list[tuple[int, int]],
    ) -> tuple[Tensor, ...]:
        """Probabilities (n, 1, M, M) of the detected category's channel, per image."""
        logits = self._mask_logits(features, [boxes for boxes, _, _ in kept], sizes).float()
        column = self._mask_column(torch.cat([labels for _, labels, _ in kept]))
        chosen = logits[torch.arange(len(logits), device=logits.device), column][:, None].sigmoid()
        return chosen.split([len(boxes) for boxes, _, _ in kept])

    def _finish(
        self,
        boxes: Tensor,
        labels: Tensor,
        scores: Tensor,
        masks: Tensor | None,
        *,
        from_size: tuple[int, int],
        to_size: tuple[int, int],
    ) -> Detections:
        """Back to the original image's pixels, on the CPU, masks compressed."""
        height, width = to_size[0] / from_size[0], to_size[1] / from_size[1]
        boxes = boxes * boxes.new_tensor([width, height, width, height])
        rles: list[dict[str, Any]] | None = None
        if masks is not None:
            rles = []
            for m, b in zip(
                masks.split(MASKS_PASTED_AT_ONCE), boxes.split(MASKS_PASTED_AT_ONCE), strict=True
            ):
                pasted = tv_roi_heads.paste_masks_in_image(m, b, to_size)[:, 0] >= self.test.mask_threshold
                columns = np.asfortranarray(pasted.permute(1, 2, 0).cpu().numpy().astype(np.uint8))
                rles += coco_mask.encode(columns)
        return Detections(boxes.cpu(), labels.cpu(), scores.cpu(), rles)


def _image_numbers(labels: list[Tensor]) -> Tensor:
    """The number (N,) of the image that each of the RoIs belongs to."""
    return torch.cat([torch.full_like(label, number) for number, label in enumerate(labels)])


def load_initial_weights(detector: TorchvisionDetector, settings: Settings) -> None:
    """Copy every tensor of the initial weights whose name and shape match; the rest stays as initialised.

    This is the rule of the released BAGS code: of a COCO model, the classifier, the class-specific regressor
    and mask channels stay random.

    Raises:
        MissingDependencyError: the weights are not at hand and cannot be fetched.
        BenchmarkError: not one tensor of the file fits.
    """
    if settings.init == "none":
        return
    state = _read_weights(settings)
    if settings.init == "imagenet":
        state = {f"backbone.body.{name}": value for name, value in state.items()}
    for pattern, replacement in _OLD_NAMES:
        state = {re.sub(pattern, replacement, name): value for name, value in state.items()}
    own = detector.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise BenchmarkError(
            f"{settings.init} weights fit no tensor of a {settings.architecture} with {settings.backbone}",
            where=settings.weights,
            remedy="give weights of the same architecture in torchvision's layout",
        )
    detector.load_state_dict(fitting, strict=False)


def _read_weights(settings: Settings) -> dict[str, Tensor]:
    if settings.weights is not None:
        try:
            state = torch.load(Path(settings.weights), map_location="cpu", weights_only=True)
        except Exception as error:
            raise MissingDependencyError(
                "cannot read the initial weights",
                where=settings.weights,
                found=why_unreadable(error),
                expected="a file saved by torch.save that holds tensors only",
            ) from None
        return dict(state.get("model", state))
    if settings.init == "coco":
        name = _COCO_MODELS[settings.architecture].format(settings.backbone)
        if settings.backbone not in HUB_COCO_BACKBONES:
            raise MissingDependencyError(
                f"torchvision has no COCO weights for {settings.architecture} with {settings.backbone}",
                remedy="give a local file as `weights:` of the detector, or use init: imagenet",
            )
        url = get_model_weights(name)["COCO_V1"].url
    else:
        url = get_model_weights(settings.backbone)["IMAGENET1K_V1"].url
    try:
        state = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"cannot fetch the {settings.init} weights",
            where=url,
            found=error,
            remedy="fetch that file elsewhere and name it as `weights:` of the detector",
        ) from None
    return dict(state)
