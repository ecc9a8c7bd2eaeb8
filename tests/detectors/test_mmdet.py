"""Properties of back end mmdet: its models and cascades equal those of MMDetection.

MMDetection's models are built from its configuration files, with its own assigners, samplers, coders, losses
and post-processing.
"""

from typing import Any

import numpy as np
import pytest
import torch
from model_comparison import check_detections, check_gradients, gradients, make_different, move_in
from pycocotools import mask as coco_mask
from tiny_detectors import BACKENDS, FORMS, UNDRAWN, batch, bitmaps, detector
from torch import Tensor

from benchmark.detectors.mmcv_ops import provide_operators
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.images import Target
from benchmark.recipes import lineage, load_experiment
from benchmark.recipes.models import TestSettings

if "mmdet" not in BACKENDS:
    pytest.skip("back end 'mmdet' is not installed", allow_module_level=True)
else:  # mmdet looks for them while it is imported
    provide_operators()

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData

from benchmark.detectors.mmdet import CONFIGS, model_config
from benchmark.detectors.modules import as_list

# No anchor ends at their border, where MMDetection 1 lets it learn and later ones do not
SIZES = [(63, 63), (49, 73)]
TEST = TestSettings(score_threshold=0.22, max_detections=300)
HOME = ["mask_rcnn", "agnostic", "cascade_rcnn", "cascade with class-specific boxes", "cascade_mask_rcnn"]
HOME += ["htc", "htc with stuff"]


def lively(form: str, **changes: Any) -> TwoStageDetector:
    """With MMDetection's rules, where nothing is drawn. Its cascades have no RoIs of low quality, HTC has."""
    own = FORMS[form] | UNDRAWN | {"framework": "mmdet", "norm": "frozen_statistics", "trainable_layers": 3}
    own |= {"roi_low_quality_iou": None} if form.startswith("cascade") else {}
    if form.startswith(("cascade", "htc")):  # by MMDetection's configuration files
        own |= {"anchors_used": "inside", "rpn_smooth_l1_beta": 1 / 9, "smooth_l1_beta": 1.0}
    torch.manual_seed(0)
    model = detector("mmdet", test=TEST, **own, **changes)
    make_different(model)
    with torch.no_grad():
        for classifier in model.classifiers:
            torch.nn.init.normal_(classifier.linear.weight, std=0.1)  # type: ignore
    return model


def original_model(model: TwoStageDetector) -> torch.nn.Module:
    """MMDetection's own model with the same settings and weights."""
    settings = model.settings
    config = model_config(settings, 3)
    config.pop("data_preprocessor")
    config.rpn_head.anchor_generator.update(base_sizes=settings.anchor_sizes, scales=[1])
    for name in ("bbox_roi_extractor", "mask_roi_extractor", "semantic_roi_extractor"):
        if name in config.roi_head:
            config.roi_head[name].out_channels = settings.fpn_channels
    config.train_cfg.rpn.sampler.num = settings.rpn_samples
    config.train_cfg.rpn_proposal.update(
        nms_pre=settings.rpn_train_candidates, max_per_img=settings.rpn_train_proposals
    )
    for head in as_list(config.train_cfg.rcnn):
        head.sampler.num = settings.roi_samples
    config.test_cfg.rpn.update(nms_pre=settings.rpn_test_candidates, max_per_img=settings.rpn_test_proposals)
    config.test_cfg.rcnn.update(
        score_thr=TEST.score_threshold,
        max_per_img=TEST.max_detections,
        nms={"type": "nms", "iou_threshold": TEST.nms_threshold},
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        home = MODELS.build(config)
    move_in(model, home, "roi_head.bbox_head{}.fc_cls")
    return home


def samples(images: list[Tensor], targets: list[Target]) -> tuple[Tensor, list[DetDataSample]]:
    """Padded images and ground truth in MMDetection's types."""
    batch = torch.zeros(len(images), 3, 64, 96)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found = []
    for place, image, target in zip(batch, images, targets, strict=True):
        height, width = image.shape[1:]
        place[:, :height, :width] = (image - mean[:, None, None]) / std[:, None, None]
        size = dict.fromkeys(("img_shape", "ori_shape"), (height, width))
        pad = {"pad_shape": (-(-height // 32) * 32, -(-width // 32) * 32), "batch_input_shape": (64, 96)}
        sample = DetDataSample(metainfo=size | pad | {"scale_factor": (1.0, 1.0)})
        planes = bitmaps(target.boxes, height, width).numpy()
        sample.gt_instances = InstanceData(
            bboxes=target.boxes, labels=target.labels, masks=BitmapMasks(planes, height, width)
        )
        if target.stuff is not None:
            padded = torch.nn.functional.pad(target.stuff, (0, 96 - width, 0, 64 - height), value=255)
            sample.gt_sem_seg = PixelData(sem_seg=padded[None])
        found.append(sample)
    return batch, found


@pytest.mark.parametrize("form", HOME)
def test_losses_and_gradients_are_those_of_mmdetection(form: str) -> None:
    """Except for stuff, whose loss MMDetection 1 divides by the labelled pixels and later versions by all."""
    model = lively(form)
    home = original_model(model).train()
    images, targets = batch(model.settings.semantic_branch, SIZES, "bitmaps")
    wanted = {}
    for name, value in home.loss(*samples(images, targets)).items():
        if "loss" in name:
            whole = torch.stack(value).sum() if isinstance(value, list) else value.sum()
            wanted[name.replace("loss_bbox", "loss_box")] = whole
    wanted["loss_rpn_objectness"] = wanted.pop("loss_rpn_cls")
    wanted["loss_rpn_box"] = wanted.pop("loss_rpn_bbox")
    found = model.train().losses(images, targets)
    if "loss_semantic_seg" in found:
        _, padded = samples(images, targets)
        maps = torch.stack([sample.gt_sem_seg.sem_seg for sample in padded]).float()
        small = torch.nn.functional.interpolate(maps, scale_factor=1 / 8)
        found["loss_semantic_seg"] = found["loss_semantic_seg"] * (small != 255).float().mean()
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-6)
    check_gradients(gradients(model, found), gradients(home, wanted), least=60)


@torch.no_grad()
@pytest.mark.parametrize("form", HOME)
def test_detections_are_those_of_mmdetection(form: str) -> None:
    """Except masks of an HTC: MMDetection 1 and 2 average the heads, as here; 3 uses the last."""
    model = lively(form)
    home = original_model(model).eval()
    images, targets = batch(model.settings.semantic_branch, SIZES, "bitmaps")
    wanted = home.predict(*samples(images, targets), rescale=False)
    found = model.eval().predict(images, [(image.shape[1], image.shape[2]) for image in images])
    for ours, sample in zip(found, wanted, strict=True):
        theirs = sample.pred_instances
        own = (ours.boxes, ours.labels, ours.scores)
        order = check_detections(own, (theirs.bboxes, theirs.labels, theirs.scores), least=3)
        if ours.rles is not None and not form.startswith("htc"):
            planes = coco_mask.decode(ours.rles).transpose(2, 0, 1).astype(bool)
            assert np.mean(planes != theirs.masks.numpy()[order]) < 1e-3
            assert planes.any()


def test_deformable_convolutions_train() -> None:
    model = lively("mask_rcnn", backbone="resnet50", deformable=True).train()
    found = gradients(model, model.losses(*batch()))
    offsets = [value for name, value in found.items() if "conv_offset" in name]
    assert len(offsets) == 2 * (4 + 6 + 3)
    assert all(value.isfinite().all() for value in offsets)


@pytest.mark.parametrize("name", ["bacl", "ecm", "eqlv2", "gol", "seesaw"])
def test_published_rows_have_the_rules_of_its_files(name: str) -> None:
    """The rules of their architecture: Faster, Mask and Cascade R-CNN differ in more than layers."""
    rows = [row for row in load_experiment(name).rows if row.entry.reported]
    models = [run.detector for row in rows for run in lineage(row.runs[0])]
    for settings in models:
        file = f"{settings.architecture.replace('_', '-')}_r50_fpn.py"
        home = Config.fromfile(CONFIGS / "_base_" / "models" / file).model
        train, (first, *_) = home.train_cfg, as_list(home.roi_head.bbox_head)
        proposals = (train.rpn_proposal.nms_pre, train.rpn_proposal.max_per_img)
        assert (settings.rpn_train_candidates, settings.rpn_train_proposals) == proposals
        assert settings.rpn_smooth_l1_beta == home.rpn_head.loss_bbox.get("beta", 0.0)
        assert settings.smooth_l1_beta == first.loss_bbox.get("beta", 0.0)
        assert settings.anchors_used == ("inside" if train.rpn.allowed_border == 0 else "unpadded")
        low_quality = {head.assigner.match_low_quality for head in as_list(train.rcnn)}
        assert {settings.roi_low_quality_iou is not None} == low_quality
