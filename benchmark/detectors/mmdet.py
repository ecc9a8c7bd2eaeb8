"""Two-stage detectors of MMDetection, cascades among them, with any classifier in every stage.

The models are built from MMDetection's own configuration files with the differences of ``model_config``;
their losses are MMDetection's. Images, engine and test protocol are this project's, and nothing of mmdet
leaves this file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers import Classifier
from benchmark.detectors.initial_weights import copy_fitting, read_weights
from benchmark.detectors.interface import (
    POOLED_SIDE,
    ChooseRoIs,
    Detections,
    Detector,
    RoIBatch,
    image_numbers,
)
from benchmark.detectors.mmcv_ops import provide_operators
from benchmark.detectors.parts import IMAGE_MEAN, IMAGE_STD, as_list, box_head_features, chosen_rois, of_label
from benchmark.detectors.postprocessing import finish, select, with_a_pixel
from benchmark.errors import BenchmarkError
from benchmark.images import Target
from benchmark.recipes.detector_settings import DetectorSettings as Settings
from benchmark.recipes.models import TestSettings

provide_operators()  # mmdet looks for them while it is imported

import mmdet.models
from mmcv.ops import RoIAlign
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmdet.structures.mask import BitmapMasks
from mmengine import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData

MMLogger.get_current_instance().setLevel("WARNING")  # or every initialised tensor is a message

SIZE_DIVISOR = 32  # of the padded images
STEM_CHANNELS = 64
UNLABELLED = 255  # in stuff maps
MASKS_AT_ONCE = 32  # bounds the memory of masks for all categories: 120 MB for those of LVIS

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
    "frozen": {"norm_cfg": {"type": "BN", "requires_grad": False}, "norm_eval": True},
    "frozen_statistics": {"norm_cfg": {"type": "BN", "requires_grad": True}, "norm_eval": True},
    "batch": {"norm_cfg": {"type": "BN", "requires_grad": True}, "norm_eval": False},
}
_DEFORMABLE = {
    "dcn": {"type": "DCN", "deform_groups": 1, "fallback_on_stride": False},
    "stage_with_dcn": (False, True, True, True),
}


class _ProposalHead(RPNHead):
    """Objectness and deltas in float32: boxes are decoded in their type, and bfloat16 knows no pixels."""

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        objectness, deltas = super().forward_single(x)
        return objectness.float(), deltas.float()


class _BoxHead(Shared2FCBBoxHead):
    """Two fully connected layers, a box regressor, and a classifier that the detector owns."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(with_cls=False, **settings)

    def plug(self, classifier: Classifier) -> None:
        """Take the classifier without registering its parameters a second time."""
        self.plugged = (classifier,)
        self.loss_cls = _ClassifierLoss(classifier)

    def features(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Features as the classifier takes them, (N, D) or (N, D + P), and those of the regressor (N, D)."""
        (classifier,) = self.plugged
        first, second = self.shared_fcs
        return box_head_features(first, second, pooled.flatten(start_dim=1), classifier)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, L) and deltas (N, 4 or 4 C) of pooled features (N, channels, 7, 7)."""
        (classifier,) = self.plugged
        classified, activated = self.features(pooled)
        return classifier(classified).float(), self.fc_reg(activated).float()


class _ClassifierLoss(nn.Module):
    """A classifier in the words in which mmdet asks a loss that does not follow its own layout of logits."""

    custom_cls_channels = custom_activation = custom_accuracy = True

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self._plugged = (classifier,)

    def forward(self, logits: Tensor, labels: Tensor, *_: Any, **__: Any) -> dict[str, Tensor]:
        """The classifier's losses; every RoI has weight 1."""
        return self._plugged[0].loss(logits, labels)

    def get_activation(self, logits: Tensor) -> Tensor:
        """Scores (N, C + 1), background last."""
        return self._plugged[0].scores(logits)

    def get_accuracy(self, *_: Any) -> dict[str, Tensor]:
        """Nothing: accuracies are not shown."""
        return {}


class _RoundedAnchors(AnchorGenerator):
    """MMDetection 1 rounds the first and the last pixel that an anchor includes."""

    def gen_single_level_base_anchors(self, *args: Any, **kwargs: Any) -> Tensor:
        """Anchors (A, 4) around one cell."""
        first, behind = super().gen_single_level_base_anchors(*args, **kwargs).split(2, dim=1)
        return torch.cat([first.round(), (behind - 1).round() + 1], dim=1)


class _PixelKeepingCoder(DeltaXYWHBBoxCoder):
    """MMDetection 1 clips boxes to pixels of the image: each keeps one of them."""

    def decode(
        self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: Any = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Boxes (N, 4), clipped where ``max_shape``, height and width, is given."""
        boxes: Tensor = super().decode(bboxes, pred_bboxes, max_shape, *args, **kwargs)
        return boxes if max_shape is None else with_a_pixel(boxes, (max_shape[0], max_shape[1]))


class _CornerRoIAlign(RoIAlign):
    """MMDetection 1 has pixel i of a level at i, where ``aligned`` has it at i + 0.5."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """(N, channels, side, side) of RoIs (N, 5), the image's number first."""
        half = 0.5 / self.spatial_scale
        pooled: Tensor = super().forward(input, rois + rois.new_tensor([0, half, half, half, half]))
        return pooled


def model_config(settings: Settings, num_classes: int) -> ConfigDict:
    """MMDetection's configuration of an architecture, with the project's sizes in it."""
    file = _SEMANTIC_CONFIG if settings.semantic_branch else _CONFIG_FILES[settings.architecture]
    model = Config.fromfile(CONFIGS / file).model
    model.pop("data_preprocessor")
    base_channels = max(8, round(STEM_CHANNELS * settings.width))
    model.backbone.update(
        **_BACKBONES[settings.backbone],
        **_NORMS[settings.norm],
        **(_DEFORMABLE if settings.deformable else {}),
        frozen_stages=4 - settings.trainable_layers,
        base_channels=base_channels,
        stem_channels=STEM_CHANNELS,
        style="caffe" if settings.stride_in_1x1 else "pytorch",
        init_cfg=None,
    )
    widening = 1 if settings.backbone == "resnet18" else 4
    model.neck.update(
        in_channels=[base_channels * widening * 2**level for level in range(4)],
        out_channels=settings.fpn_channels,
    )
    model.rpn_head.update(
        type=_ProposalHead, in_channels=settings.fpn_channels, feat_channels=settings.fpn_channels
    )
    model.rpn_head.anchor_generator.update(base_sizes=settings.anchor_sizes, scales=[1])
    _configure_roi_head(model.roi_head, settings, num_classes)
    model.train_cfg.rpn.sampler.num = settings.rpn_samples
    model.train_cfg.rpn_proposal.update(
        nms_pre=settings.rpn_train_proposals, max_per_img=settings.rpn_train_proposals
    )
    model.test_cfg.rpn.update(nms_pre=settings.rpn_test_proposals, max_per_img=settings.rpn_test_proposals)
    for stage in as_list(model.train_cfg.rcnn):
        stage.sampler.update(num=settings.roi_samples, pos_fraction=settings.roi_positive_fraction)
        if settings.roi_background_min_iou > 0:
            stage.assigner.neg_iou_thr = (settings.roi_background_min_iou, stage.assigner.neg_iou_thr)
    if settings.coordinates == "mmdet_v1":
        _configure_coordinates_of_version_1(model)
    return model


def _configure_coordinates_of_version_1(model: ConfigDict) -> None:
    """The rules of MMDetection 1 for boxes that end behind their last pixel, as all of this project do.

    There they end in it, and sides are x2 - x1 + 1; MMDetection's own ``legacy_1.x`` configurations have
    that for anchors and deltas, but not for the overlap of boxes.
    """
    anchors = model.rpn_head.anchor_generator
    anchors.update(type=_RoundedAnchors, centers=[(stride / 2, stride / 2) for stride in anchors.strides])
    for head in (model.rpn_head, *as_list(model.roi_head.bbox_head)):
        head.bbox_coder.type = _PixelKeepingCoder
    for name in ("bbox_roi_extractor", "mask_roi_extractor", "semantic_roi_extractor"):
        if name in model.roi_head:
            model.roi_head[name].roi_layer.update(type=_CornerRoIAlign, sampling_ratio=2)


def _configure_roi_head(roi_head: ConfigDict, settings: Settings, num_classes: int) -> None:
    channels = settings.fpn_channels
    if settings.smooth_l1_beta > 0:
        box_loss = {"type": "SmoothL1Loss", "beta": settings.smooth_l1_beta, "loss_weight": 1.0}
    else:
        box_loss = {"type": "L1Loss", "loss_weight": 1.0}
    roi_head.bbox_roi_extractor.out_channels = channels
    for head in as_list(roi_head.bbox_head):
        head.update(
            type=_BoxHead,
            in_channels=channels,
            fc_out_channels=settings.box_head_width,
            num_classes=num_classes,
            reg_class_agnostic=settings.class_agnostic_boxes,
        )
        head.loss_bbox = ConfigDict(box_loss)
    if settings.masks:
        roi_head.mask_roi_extractor.out_channels = channels
        for head in as_list(roi_head.mask_head):
            head.update(
                num_convs=settings.mask_layers,
                in_channels=channels,
                conv_out_channels=settings.mask_channels,
                num_classes=num_classes,
                class_agnostic=settings.class_agnostic_masks,
            )
            if settings.mask_predictor == "normed":
                head.predictor_cfg = ConfigDict(type="NormedConv2d", temperature=settings.mask_temperature)
    if settings.semantic_branch:
        roi_head.semantic_roi_extractor.out_channels = channels
        roi_head.semantic_head.update(in_channels=channels, conv_out_channels=channels)


class MMDetDetector(Detector):
    """A detector of MMDetection behind ``benchmark.detectors.interface.Detector``.

    Parameters have the names that they have in MMDetection, but for those of the classifiers.

    Args:
        settings: architecture and sizes.
        classifiers: one for each box head.
        test: thresholds of ``predict``.

    Raises:
        BenchmarkError: torchvision's coordinates.
    """

    backend = "mmdet"
    mean: Tensor
    std: Tensor

    def __init__(self, settings: Settings, classifiers: Sequence[Classifier], test: TestSettings) -> None:
        super().__init__(settings, test, classifiers[0].num_classes)
        if settings.coordinates == "torchvision":
            raise BenchmarkError(
                "back end 'mmdet' has the coordinates of MMDetection",
                found=f"coordinates: {settings.coordinates}",
                expected="coordinates: aligned, or mmdet_v1 for weights of MMDetection 1",
                remedy="set it in the preset, as those of workflows/detectors/mmdet.yaml do",
            )
        config = model_config(settings, self.num_classes)
        with DefaultScope.overwrite_default_scope("mmdet"):
            model = MODELS.build(config)
            model.init_weights()
        self.backbone, self.neck = model.backbone, model.neck
        self.rpn_head, self.roi_head = model.rpn_head, model.roi_head
        self._proposal_settings = config.train_cfg.rpn_proposal
        for head, classifier in zip(self._box_heads, classifiers, strict=True):
            head.plug(classifier)
            if settings.box_regressor_init == "uniform":
                head.fc_reg.reset_parameters()
        self.classifiers = nn.ModuleList(classifiers)
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD)[:, None, None], persistent=False)

    @property
    def box_head_layers(self) -> list[list[nn.Linear]]:
        """The two layers of each box head."""
        return [list(head.shared_fcs) for head in self._box_heads]

    @property
    def _box_heads(self) -> list[_BoxHead]:
        return as_list(self.roi_head.bbox_head)

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """MMDetection's losses under this project's names; those of a cascade's stages with s0, s1, s2."""
        features, samples = self._features(images, targets)
        found, proposals = self.rpn_head.loss_and_predict(
            features, [_without_categories(sample) for sample in samples], self._proposal_settings
        )
        losses = {
            "loss_rpn_objectness": torch.stack(list(found["loss_rpn_cls"])).sum(),
            "loss_rpn_box": torch.stack(list(found["loss_rpn_bbox"])).sum(),
        }
        for name, value in self.roi_head.loss(features, proposals, samples).items():
            losses[name.replace("loss_bbox", "loss_box")] = value.sum()  # that of masks has shape (1,)
        return losses

    @torch.no_grad()
    def box_features(
        self, images: list[Tensor], targets: list[Target], choose: ChooseRoIs | None = None
    ) -> list[RoIBatch]:
        """Features of RoIs proposed, sampled and refined as in training, in evaluation mode."""
        features, samples = self._features(images, targets)
        semantic = self._semantic(features)
        boxes, _ = self._proposals(features, samples, self._proposal_settings)
        batches = []
        for stage, head in enumerate(self._box_heads):
            sampled = self._sample(stage, boxes, samples)
            boxes = [item.priors for item in sampled]
            labels = [_labels(item, self.num_classes) for item in sampled]
            chosen = chosen_rois(labels, choose)
            last = stage + 1 == len(self._box_heads)
            if last:  # no stage is refined from the others
                boxes = [box[keep] for box, keep in zip(boxes, chosen, strict=True)]
                labels = [label[keep] for label, keep in zip(labels, chosen, strict=True)]
                chosen = [keep[keep] for keep in chosen]
            y, kept = torch.cat(labels), torch.cat(chosen)
            classified, activated = head.features(self._pooled(stage, features, semantic, bbox2roi(boxes)))
            parts = (classified, y, torch.cat(boxes), image_numbers(labels))
            batches.append(RoIBatch(*(part[kept] for part in parts)))
            if not last:
                boxes = self._refined(stage, boxes, classified, activated, samples, y)
                own = [item.pos_is_gt.bool() for item in sampled]  # positives come first
                boxes = [
                    box[~F.pad(truth, (0, len(box) - len(truth)))]
                    for box, truth in zip(boxes, own, strict=True)
                ]
        return batches

    @torch.no_grad()
    def ground_truth_features(self, images: list[Tensor], targets: list[Target]) -> list[RoIBatch]:
        """Features of the ground-truth boxes as they are, in every stage, in evaluation mode."""
        features, _ = self._features(images, None)
        semantic = self._semantic(features)
        boxes, labels = [target.boxes for target in targets], [target.labels for target in targets]
        batches = []
        for stage, head in enumerate(self._box_heads):
            classified, _ = head.features(self._pooled(stage, features, semantic, bbox2roi(boxes)))
            batches.append(RoIBatch(classified, torch.cat(labels), torch.cat(boxes), image_numbers(labels)))
        return batches

    @torch.no_grad()
    def predict(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> list[Detections]:
        """LVIS protocol, with a cascade's last boxes and the scores that the method makes of all stages."""
        features, samples = self._features(images, None)
        semantic = self._semantic(features)
        boxes, objectness = self._proposals(features, samples, self.rpn_head.test_cfg)
        counts = [len(item) for item in boxes]
        logits = []
        for stage, head in enumerate(self._box_heads):
            pooled = self._pooled(stage, features, semantic, bbox2roi(boxes))
            classified, activated = head.features(pooled)
            logits.append(self._classifier(stage)(classified).float())
            if stage + 1 < len(self._box_heads):
                boxes = self._refined(stage, boxes, classified, activated, samples)
        scores = self._classifier(-1).detection_scores(logits, torch.cat(objectness))
        deltas = head.fc_reg(activated).float()
        kept, masks = [], []
        for number, (roi, score, delta) in enumerate(
            zip(boxes, scores.split(counts), deltas.split(counts), strict=True)
        ):
            columns = delta.view(len(delta), -1, 4)
            size = samples[number].img_shape
            decoded = head.bbox_coder.decode(
                roi.repeat_interleave(columns.shape[1], dim=0), columns.reshape(-1, 4), max_shape=size
            )
            best = select(decoded.view(columns.shape), score, size, self.test)
            kept.append(best)
            masks.append(self._mask_probabilities(features, semantic, number, *best[:2]))
        return [
            finish(
                item,
                mask,
                _paste,
                self.test.mask_threshold,
                from_size=sample.img_shape,
                to_size=original,
                coordinates=self.settings.coordinates,
            )
            for item, mask, sample, original in zip(kept, masks, samples, sizes, strict=True)
        ]

    def _classifier(self, stage: int) -> Classifier:
        return cast(Classifier, self.classifiers[stage])

    def _features(
        self, images: list[Tensor], targets: list[Target] | None
    ) -> tuple[tuple[Tensor, ...], list[DetDataSample]]:
        """Feature pyramid in float32, because RoIAlign takes boxes in the type of the features, and metadata
        with the ground truth in mmdet's types."""
        height, width = (_padded(max(image.shape[side] for image in images)) for side in (1, 2))
        batch = torch.stack(
            [
                F.pad((image - self.mean) / self.std, (0, width - image.shape[2], 0, height - image.shape[1]))
                for image in images
            ]
        )
        samples = [_sample_of(image, (height, width)) for image in images]
        for sample, target in zip(samples, targets or [], strict=targets is not None):
            _set_truth(sample, target, self.settings)
        return tuple(level.float() for level in self.neck(self.backbone(batch))), samples

    def _semantic(self, features: tuple[Tensor, ...]) -> Tensor | None:
        """Features of the semantic branch, where there is one."""
        if not self.settings.semantic_branch:
            return None
        _, embedded = self.roi_head.semantic_head(features)
        return cast(Tensor, embedded.float())

    def _proposals(
        self, features: tuple[Tensor, ...], samples: list[DetDataSample], settings: ConfigDict
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Proposals (n, 4) of each image, and their scores (n,)."""
        found = self.rpn_head.predict_by_feat(
            *self.rpn_head(features), batch_img_metas=[sample.metainfo for sample in samples], cfg=settings
        )
        return [item.bboxes for item in found], [item.scores for item in found]

    def _sample(self, stage: int, boxes: list[Tensor], samples: list[DetDataSample]) -> list[SamplingResult]:
        assigner = as_list(self.roi_head.bbox_assigner)[stage]
        sampler = as_list(self.roi_head.bbox_sampler)[stage]
        results = []
        for box, sample in zip(boxes, samples, strict=True):
            priors, truth = InstanceData(priors=box), sample.gt_instances
            results.append(sampler.sample(assigner.assign(priors, truth, None), priors, truth))
        return results

    def _pooled(
        self, stage: int, features: tuple[Tensor, ...], semantic: Tensor | None, rois: Tensor
    ) -> Tensor:
        """What a box head takes, (N, channels, 7, 7), of RoIs (N, 5)."""
        extractor = as_list(self.roi_head.bbox_roi_extractor)[stage]
        pooled: Tensor = extractor(features[: extractor.num_inputs], rois)
        if semantic is not None:
            wide = self.roi_head.semantic_roi_extractor([semantic], rois)
            pooled = pooled + F.adaptive_avg_pool2d(wide, POOLED_SIDE)
        return pooled

    def _refined(
        self,
        stage: int,
        boxes: list[Tensor],
        classified: Tensor,
        activated: Tensor,
        samples: list[DetDataSample],
        labels: Tensor | None = None,
    ) -> list[Tensor]:
        """The boxes that a stage hands to the next; class-specific ones are of the true or the best label."""
        head = self._box_heads[stage]
        deltas = head.fc_reg(activated).float()
        column = torch.zeros_like(deltas[:, 0], dtype=torch.long)
        if not head.reg_class_agnostic:
            classifier = self._classifier(stage)
            column = classifier.scores(classifier(classified).float())[:, :-1].argmax(dim=1)
            if labels is not None:
                column = torch.where(labels < self.num_classes, labels, column)
        counts = [len(box) for box in boxes]
        return [
            head.regress_by_class(*item, sample.metainfo)
            for *item, sample in zip(boxes, column.split(counts), deltas.split(counts), samples, strict=True)
        ]

    def _mask_probabilities(
        self,
        features: tuple[Tensor, ...],
        semantic: Tensor | None,
        number: int,
        boxes: Tensor,
        labels: Tensor,
    ) -> Tensor | None:
        """Probabilities (n, 1, M, M) of the detected category's channel, the mean over a cascade's stages."""
        if not self.settings.masks:
            return None
        found = []
        for box, label in zip(boxes.split(MASKS_AT_ONCE), labels.split(MASKS_AT_ONCE), strict=True):
            rois = F.pad(box, (1, 0), value=number)
            stages = [
                of_label(logits, label).float().sigmoid()
                for logits in self._mask_logits(features, semantic, rois)
            ]
            found.append(torch.stack(stages).mean(dim=0)[:, None])
        return torch.cat(found)

    def _mask_logits(
        self, features: tuple[Tensor, ...], semantic: Tensor | None, rois: Tensor
    ) -> list[Tensor]:
        """Mask logits (n, C or 1, M, M) of every stage; an HTC's stages see features of the stage before."""
        logits, last = [], None
        extractors, heads = as_list(self.roi_head.mask_roi_extractor), as_list(self.roi_head.mask_head)
        for extractor, head in zip(extractors, heads, strict=True):
            pooled = extractor(features[: extractor.num_inputs], rois)
            if semantic is not None:
                pooled = pooled + self.roi_head.semantic_roi_extractor([semantic], rois)
            if self.settings.architecture == "htc":
                found, last = head(pooled, last)
            else:
                found = head(pooled)
            logits.append(found)
        return logits


def _padded(side: int) -> int:
    return -(-side // SIZE_DIVISOR) * SIZE_DIVISOR


def _sample_of(image: Tensor, padded: tuple[int, int]) -> DetDataSample:
    size = (image.shape[1], image.shape[2])
    own = (_padded(size[0]), _padded(size[1]))
    return DetDataSample(
        metainfo={
            "img_shape": size,
            "pad_shape": own,
            "batch_input_shape": padded,
            "scale_factor": (1.0, 1.0),
        }
    )


def _set_truth(sample: DetDataSample, target: Target, settings: Settings) -> None:
    sample.gt_instances = InstanceData(bboxes=target.boxes, labels=target.labels)
    if target.masks is not None and settings.masks:
        sample.gt_instances.masks = BitmapMasks(target.masks.cpu().numpy(), *sample.img_shape)
    if target.stuff is not None and settings.semantic_branch:
        height, width = (
            whole - own for whole, own in zip(sample.batch_input_shape, target.stuff.shape, strict=True)
        )
        padded = F.pad(target.stuff, (0, width, 0, height), value=UNLABELLED)
        sample.gt_sem_seg = PixelData(sem_seg=padded[None])


def _without_categories(sample: DetDataSample) -> DetDataSample:
    """For the proposal network, to which everything is an object."""
    truth = sample.gt_instances
    plain = DetDataSample(metainfo=sample.metainfo)
    plain.gt_instances = InstanceData(bboxes=truth.bboxes, labels=torch.zeros_like(truth.labels))
    return plain


def _labels(sampled: SamplingResult, num_classes: int) -> Tensor:
    """Labels in ``0..C`` of sampled RoIs, of which the positive ones come first."""
    return F.pad(sampled.pos_gt_labels, (0, len(sampled.neg_priors)), value=num_classes)


def _paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """mmdet's pasting: bilinear at pixel centres. On a CPU one by one, within its box."""
    if masks.device.type != "cpu":
        pasted: Tensor = _do_paste_mask(masks, boxes, *size, skip_empty=False)[0]
        return pasted
    canvas = masks.new_zeros(len(masks), *size)
    for plane, mask, box in zip(canvas, masks.split(1), boxes.split(1), strict=True):
        values, place = _do_paste_mask(mask, box, *size, skip_empty=True)
        plane[place] = values[0]
    return canvas


def load_initial_weights(detector: MMDetDetector, settings: Settings) -> None:
    """Copy what fits of the initial weights (see ``copy_fitting``): ImageNet's in torchvision's layout, whose
    names of a trunk are mmdet's too, COCO's from a file in mmdet's layout.

    Raises:
        MissingDependencyError: the weights are not at hand and cannot be fetched.
        BenchmarkError: not one tensor of the file fits.
    """
    if settings.init == "none":
        return
    state = read_weights(settings, "MMDetection")
    if settings.init == "imagenet":
        state = {f"backbone.{name}": value for name, value in state.items()}
    copy_fitting(detector, state, settings, "torchvision's" if settings.init == "imagenet" else "mmdet's")
