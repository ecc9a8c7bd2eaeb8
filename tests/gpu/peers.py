"""A training step of MMDetection's runner, and one of detectron2's trainer, on torchvision's inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmark.recipes.detector_settings import DetectorSettings

Step = Callable[[list[Tensor], list[Any]], None]


def mmdet_step(settings: DetectorSettings, classes: int, device: torch.device, *, bf16: bool) -> Step:
    """``train_step`` of MMDetection's model, as its runner calls it."""
    from benchmark.detectors.mmcv_ops import provide_operators

    provide_operators()
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.optim import AmpOptimWrapper, OptimWrapper
    from mmengine.registry import DefaultScope
    from mmengine.structures import InstanceData

    from benchmark.detectors.mmdet import model_config

    config = model_config(settings, classes)
    for name in ("bbox_roi_extractor", "mask_roi_extractor"):
        config.roi_head[name].out_channels = settings.fpn_channels
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config).to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    wrapper = AmpOptimWrapper(dtype="bfloat16", optimizer=optimizer) if bf16 else OptimWrapper(optimizer)

    def step(images: list[Tensor], targets: list[Any]) -> None:
        samples = []
        for image, target in zip(images, targets, strict=True):
            height, width = image.shape[1:]
            sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape"), (height, width))
            sample = DetDataSample(metainfo=sizes | {"scale_factor": (1.0, 1.0)})
            masks = BitmapMasks(target["masks"].numpy(), height, width)
            labels = target["labels"] - 1
            sample.gt_instances = InstanceData(bboxes=target["boxes"], labels=labels, masks=masks)
            samples.append(sample)
        inputs = [(255 * image).byte() for image in images]
        model.train_step({"inputs": inputs, "data_samples": samples}, wrapper)

    return step


def detectron2_step(settings: DetectorSettings, classes: int, device: torch.device, *, bf16: bool) -> Step:
    """``run_step`` of detectron2's trainer."""
    from detectron2 import model_zoo
    from detectron2.engine import AMPTrainer, SimpleTrainer
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.NUM_CLASSES = str(device), classes
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.MODEL.FPN.OUT_CHANNELS = settings.fpn_channels
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = settings.box_head_width
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = settings.roi_samples
    model = build_model(cfg).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    pending: list[list[dict[str, Any]]] = []

    class Pending:
        """What the trainer takes its next images from."""

        def __iter__(self) -> "Pending":
            return self

        def __next__(self) -> list[dict[str, Any]]:
            return pending.pop()

    trainer: Any = SimpleTrainer(model, Pending(), optimizer)
    if bf16:
        trainer = AMPTrainer(model, Pending(), optimizer, precision=torch.bfloat16)

    def step(images: list[Tensor], targets: list[Any]) -> None:
        batch = []
        for image, target in zip(images, targets, strict=True):
            truth = Instances(tuple(image.shape[1:]))
            truth.gt_boxes, truth.gt_classes = Boxes(target["boxes"]), target["labels"] - 1
            truth.gt_masks = BitMasks(target["masks"].bool())
            batch.append({"image": (255 * image).byte(), "instances": truth})
        pending.append(batch)
        with EventStorage(trainer.iter) as trainer.storage:
            trainer.run_step()
        trainer.iter += 1

    return step


PEERS: dict[str, tuple[str, Callable[..., Step]]] = {
    "mmdet": ("MMDetection's train_step", mmdet_step),
    "detectron2": ("detectron2's trainer", detectron2_step),
}
"""Their names and steps by the package that has to be installed."""
