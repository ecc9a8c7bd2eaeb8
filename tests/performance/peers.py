"""Other trainers of the same detector: each its own model, loading and loop."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from benchmark.annotations import AnnotationFile
from benchmark.detectors import build_detector
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import Run
from benchmark.sampling import ImageStream, StreamBatches
from benchmark.statistics import ClassStatistics

from . import loading
from .retraining import boxes_proposed_near


@dataclass(frozen=True)
class Training:
    """What a peer trains: the detector and classes of a recipe, on the images of its annotations in the order
    of the benchmark's loop; AdamW at a constant rate. With ``classifier_only`` everything else is frozen."""

    run: Run
    statistics: ClassStatistics
    annotations: AnnotationFile
    images: Path
    batch: int
    workers: int
    iterations: int
    device: torch.device
    classifier_only: bool = False
    bf16: bool = False

    @property
    def settings(self) -> DetectorSettings:
        """Of the detector."""
        return self.run.detector

    @property
    def edges(self) -> tuple[int, int]:
        """Of the images, as for ``loading``."""
        return self.settings.train_short_edges[0], self.settings.long_edge

    def loader(self, load: loading.Load, collate: Callable[[list[Any]], Any]) -> "DataLoader[Any]":
        """Batches of loaded images."""
        stream = ImageStream(torch.ones(len(self.annotations.images)).numpy(), 0)
        order = StreamBatches(stream, self.batch, 0, self.iterations)
        return DataLoader(_Loaded(load), batch_sampler=order, collate_fn=collate, num_workers=self.workers)

    def near(self, boxes: Tensor) -> Tensor:
        """Boxes near the objects of an image, which random weights do not propose."""
        return boxes_proposed_near(boxes, self.settings.roi_samples)

    def ready(self, model: nn.Module, classifier: nn.Module) -> torch.optim.Optimizer:
        """Move the model, freeze what does not train; the optimiser of the rest."""
        model.to(self.device).train()
        if self.classifier_only:
            model.requires_grad_(False)
            classifier.requires_grad_(True)
        return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


class _Loaded(Dataset[Any]):
    def __init__(self, load: loading.Load) -> None:
        self.load = load

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return self.load(key[0])


def torchvision(training: Training, place: Path) -> None:
    """torchvision's ``MaskRCNN`` with the benchmark's trunk, in the loop of its reference: loss, a look
    at whether it is finite, backward, step."""
    settings, classes = training.settings, training.statistics.num_classes + 1
    width, count = settings.box_head_width, len(settings.anchor_sizes)
    trunk = cast(nn.Module, build_detector(training.run, training.statistics).backbone)
    for module in trunk.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.__class__ = FrozenBatchNorm2d  # instead of the benchmark's faster one
    model = MaskRCNN(
        trunk,
        min_size=training.edges[0],
        max_size=training.edges[1],
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in settings.anchor_sizes), ((0.5, 1.0, 2.0),) * count
        ),
        rpn_pre_nms_top_n_train=settings.rpn_train_candidates,
        rpn_post_nms_top_n_train=settings.rpn_train_proposals,
        rpn_batch_size_per_image=settings.rpn_samples,
        box_batch_size_per_image=settings.roi_samples,
        box_head=TwoMLPHead(settings.fpn_channels * 49, width),
        box_predictor=FastRCNNPredictor(width, classes),
        mask_head=MaskRCNNHeads(settings.fpn_channels, [settings.mask_channels] * settings.mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(settings.mask_channels, settings.mask_channels, classes),
    )
    heads = cast(Any, model.roi_heads)
    heads.add_gt_proposals = lambda proposals, truth: [
        torch.cat([some, own, training.near(own)]) for some, own in zip(proposals, truth, strict=True)
    ]
    optimizer = training.ready(model, heads.box_predictor.cls_score)
    load = loading.with_torchvision(training.annotations, training.images, training.edges)
    device = training.device
    for batch in training.loader(load, list):
        images = [content["image"].to(device) for content, _ in batch]
        targets = [_target(content, labels, device) for content, labels in batch]
        with torch.autocast(device.type, torch.bfloat16, enabled=training.bf16):
            loss = torch.stack(list(model(images, targets).values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _target(content: dict[str, Any], labels: Tensor, device: torch.device) -> dict[str, Tensor]:
    return {
        "boxes": content["boxes"].as_subclass(Tensor).to(device),
        "masks": content["masks"].as_subclass(Tensor).to(device),
        "labels": labels.to(device) + 1,
    }


def mmdet(training: Training, place: Path) -> None:
    """MMDetection's model from its configuration, its pipeline, and MMEngine's ``Runner`` with its hooks."""
    load = loading.with_mmdetection(training.annotations, training.images, True, training.edges)
    from mmdet.registry import MODELS
    from mmengine.dataset import pseudo_collate
    from mmengine.optim import AmpOptimWrapper, OptimWrapper
    from mmengine.registry import DefaultScope
    from mmengine.runner import Runner
    from mmengine.structures import InstanceData

    from benchmark.detectors.mmdet import model_config

    settings = training.settings
    config = model_config(settings, training.statistics.num_classes)
    for name in ("bbox_roi_extractor", "mask_roi_extractor"):
        config.roi_head[name].out_channels = settings.fpn_channels
    config.rpn_head.anchor_generator.scales = [settings.anchor_sizes[0] / 4]
    config.train_cfg.rpn.sampler.num = settings.rpn_samples
    config.train_cfg.rpn_proposal.update(
        nms_pre=settings.rpn_train_candidates, max_per_img=settings.rpn_train_proposals
    )
    config.train_cfg.rcnn.sampler.num = settings.roi_samples
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config)
    loss = model.roi_head.loss

    def with_near(levels: Any, proposals: list[Any], samples: list[Any]) -> Any:
        near = [training.near(sample.gt_instances.bboxes) for sample in samples]
        pairs = zip(proposals, near, strict=True)
        return loss(
            levels, [InstanceData(bboxes=torch.cat([some.bboxes, own])) for some, own in pairs], samples
        )

    model.roi_head.loss = with_near
    optimizer = training.ready(model, model.roi_head.bbox_head.fc_cls)
    wrapper = AmpOptimWrapper(dtype="bfloat16", optimizer=optimizer) if training.bf16 else None
    runner = Runner(
        model,
        work_dir=str(place),
        train_dataloader=training.loader(load, pseudo_collate),
        train_cfg={"by_epoch": False, "max_iters": training.iterations},
        optim_wrapper=wrapper or OptimWrapper(optimizer),
        default_hooks={"checkpoint": None, "sampler_seed": None},  # the order of images is given
        default_scope="mmdet",
        log_level="WARNING",
    )
    runner.train()


def detectron2(training: Training, place: Path) -> None:
    """detectron2's ``GeneralizedRCNN`` from its configuration, ``DatasetMapper`` and ``SimpleTrainer``."""
    from detectron2 import model_zoo
    from detectron2.engine import AMPTrainer, SimpleTrainer
    from detectron2.modeling import FPN, GeneralizedRCNN, build_proposal_generator, build_roi_heads
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool
    from detectron2.structures import Boxes, Instances

    from benchmark.detectors.detectron2 import trunk

    settings = training.settings
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in settings.anchor_sizes]
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = settings.rpn_samples
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = settings.rpn_train_candidates
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = settings.rpn_train_proposals
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = training.statistics.num_classes
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = settings.roi_samples
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = settings.box_head_width
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = settings.class_agnostic_boxes
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = settings.mask_channels
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = settings.mask_layers
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = settings.class_agnostic_masks
    body = trunk(settings)
    pyramid = FPN(body, list(body.output_shape()), settings.fpn_channels, top_block=LastLevelMaxPool())
    model = GeneralizedRCNN(
        backbone=pyramid,
        proposal_generator=build_proposal_generator(cfg, pyramid.output_shape()),
        roi_heads=build_roi_heads(cfg, pyramid.output_shape()),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=[57.375, 57.12, 58.395],  # its other trunks' have the deviations in their weights
    )
    sample = model.roi_heads.label_and_sample_proposals

    def with_near(proposals: list[Any], targets: list[Any]) -> Any:
        near = [
            Instances(target.image_size, proposal_boxes=Boxes(training.near(target.gt_boxes.tensor)))
            for target in targets
        ]
        for own in near:
            own.objectness_logits = torch.zeros(len(own), device=training.device)
        return sample([Instances.cat([*pair]) for pair in zip(proposals, near, strict=True)], targets)

    model.roi_heads.label_and_sample_proposals = with_near
    optimizer = training.ready(model, model.roi_heads.box_predictor.cls_score)
    load = loading.with_detectron2(training.annotations, training.images, "polygon", training.edges)
    loader = training.loader(load, list)
    trainer: Any = SimpleTrainer(model, loader, optimizer)
    if training.bf16:
        trainer = AMPTrainer(model, loader, optimizer, precision=torch.bfloat16)
    trainer.train(0, training.iterations)


_ALL: dict[str, tuple[str, Callable[[Training, Path], None]]] = {
    "torchvision": ("torchvision's reference", torchvision),
    "mmdet": ("MMDetection's runner", mmdet),
    "detectron2": ("detectron2's trainer", detectron2),
}
PEERS = {package: peer for package, peer in _ALL.items() if importlib.util.find_spec(package) is not None}
"""What they are called, and how they train, by the package; those that are installed."""
