"""Properties of back end detectron2: its models and its kind of cascade equal those of detectron2."""

from typing import Any

import pytest
import released
import torch
from helpers import statistics_of
from model_comparison import check_detections, check_gradients, gradients, make_different, move_in
from pycocotools import mask as coco_mask
from tiny_detectors import BACKENDS, COUNTS, FORMS, TINY, UNDRAWN, batch, bitmaps, detector

from benchmark.detectors.importing import convert
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import TestSettings
from methods.balms.classifier import BalancedMeta

if "detectron2" not in BACKENDS:
    pytest.skip("back end 'detectron2' is not installed", allow_module_level=True)

from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from benchmark.detectors.detectron2 import Detectron2Detector

TEST = TestSettings(score_threshold=0.2, max_detections=300)
HOME = ["mask_rcnn", "agnostic", "cascade of detectron2"]


def lively(form: str) -> TwoStageDetector:
    """Where nothing is drawn."""
    model = detector("detectron2", test=TEST, backbone="resnet50", norm="frozen", **UNDRAWN, **FORMS[form])
    make_different(model)
    with torch.no_grad():
        for layer in model.box_regressors:
            layer.weight *= 0.2  # type: ignore[operator]  # no box shrinks to a line
        for classifier in model.classifiers:
            torch.nn.init.normal_(classifier.linear.weight, std=0.1)  # type: ignore
            classifier.linear.bias[-1] = -2  # type: ignore[union-attr, index]
    return model


def original_model(model: TwoStageDetector) -> torch.nn.Module:
    """detectron2's model with the same settings and weights, built from its configuration."""
    settings = model.settings
    cfg = get_cfg()
    topk = {
        "PRE_NMS_TOPK_TRAIN": settings.rpn_train_candidates,
        "POST_NMS_TOPK_TRAIN": settings.rpn_train_proposals,
        "PRE_NMS_TOPK_TEST": settings.rpn_test_candidates,
        "POST_NMS_TOPK_TEST": settings.rpn_test_proposals,
    }
    values: dict[str, Any] = {
        "DEVICE": "cpu",
        "BACKBONE.NAME": "build_resnet_fpn_backbone",
        "BACKBONE.FREEZE_AT": 0,
        "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "RESNETS.WIDTH_PER_GROUP": 16,
        "RESNETS.RES2_OUT_CHANNELS": 64,
        "RESNETS.STRIDE_IN_1X1": False,
        "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "FPN.OUT_CHANNELS": settings.fpn_channels,
        "ANCHOR_GENERATOR.SIZES": [[size] for size in settings.anchor_sizes],
        "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "RPN.BATCH_SIZE_PER_IMAGE": settings.rpn_samples,
        **{f"RPN.{name}": count for name, count in topk.items()},
        "ROI_HEADS.NAME": "StandardROIHeads" if settings.box_head_count == 1 else "CascadeROIHeads",
        "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "ROI_HEADS.NUM_CLASSES": len(COUNTS),
        "ROI_HEADS.BATCH_SIZE_PER_IMAGE": settings.roi_samples,
        "ROI_HEADS.SCORE_THRESH_TEST": TEST.score_threshold,
        "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "ROI_BOX_HEAD.NUM_FC": 2,
        "ROI_BOX_HEAD.FC_DIM": settings.box_head_width,
        "ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": settings.class_agnostic_boxes,
        "MASK_ON": True,
        "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "ROI_MASK_HEAD.NUM_CONV": settings.mask_layers,
        "ROI_MASK_HEAD.CONV_DIM": settings.mask_channels,
        "ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
        "ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": settings.class_agnostic_masks,
        "PIXEL_MEAN": [123.675, 116.28, 103.53],
        "PIXEL_STD": [58.395, 57.12, 57.375],
    }
    cfg.merge_from_list([item for name, value in values.items() for item in (f"MODEL.{name}", value)])
    cfg.TEST.DETECTIONS_PER_IMAGE = TEST.max_detections
    cfg.INPUT.FORMAT = "RGB"
    home = build_model(cfg)
    move_in(model, home, "roi_heads.box_predictor{}.cls_score")
    return home


@pytest.mark.parametrize("form", HOME)
def test_losses_and_gradients_are_those_of_detectron2(form: str) -> None:
    """Also for a cascade, where a third of the gradient reaches the features."""
    model = lively(form)
    home = original_model(model).train()
    images, targets = batch(way="bitmaps")
    inputs = []
    for image, target in zip(images, targets, strict=True):
        truth = Instances(tuple(image.shape[1:]))
        truth.gt_boxes, truth.gt_classes = Boxes(target.boxes), target.labels
        truth.gt_masks = BitMasks(bitmaps(target.boxes, *image.shape[1:]))
        inputs.append({"image": 255 * image, "instances": truth})
    with EventStorage():
        wanted = home(inputs)
    found = model.train().losses(images, targets)
    renamed = {"loss_rpn_objectness": "loss_rpn_cls", "loss_rpn_box": "loss_rpn_loc"}
    for name, value in found.items():
        head, _, plain = name.rpartition(".")
        end = f"_stage{head[1]}" if head else ""
        theirs = renamed.get(name, plain.replace("loss_box", "loss_box_reg") + end)
        torch.testing.assert_close(value, wanted[theirs], rtol=1e-4, atol=1e-6)
    assert len(wanted) == len(found)
    check_gradients(gradients(model, found), gradients(home, wanted), least=60)


@torch.no_grad()
@pytest.mark.parametrize("form", HOME)
def test_detections_are_those_of_detectron2(form: str) -> None:
    model = lively(form)
    home = original_model(model).eval()
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    (wanted,) = home([{"image": 255 * image, "height": 128, "width": 192}])
    theirs = wanted["instances"]
    (found,) = model.eval().predict([image], [(128, 192)])
    own = (found.boxes, found.labels, found.scores)
    order = check_detections(own, (theirs.pred_boxes.tensor, theirs.pred_classes, theirs.scores), least=3)
    planes = coco_mask.decode(found.rles).transpose(2, 0, 1).astype(bool)
    assert (planes != theirs.pred_masks.numpy()[order]).mean() < 1e-3
    assert planes.any()


@torch.no_grad()
def test_imported_weights_of_balms_detect_what_they_did_at_home() -> None:
    """Compared with the release's arithmetic as written for the import into back end torchvision."""
    counts = [3, 50, 400, 7, 5000, 20]
    sizes = {"fpn_channels": released.CHANNELS, "box_head_width": released.WIDTH, "mask_layers": 4}
    sizes |= {"mask_channels": released.CHANNELS, "width": released.BASE / 64}
    sizes |= {"rpn_test_candidates": released.PROPOSALS, "rpn_test_proposals": released.PROPOSALS}
    form = TINY | sizes | {"backbone": "resnet50", "norm": "frozen", "anchor_sizes": [32, 64, 128, 256, 512]}

    def build(**conventions: Any) -> Detectron2Detector:
        classifier = BalancedMeta(released.WIDTH, statistics_of(counts))
        test = TestSettings(score_threshold=0.02, max_detections=60)
        return Detectron2Detector(DetectorSettings(**(form | conventions)), [classifier], test).eval()

    state = released.released_state("detectron2", len(counts), len(counts))
    learner = {"roi_heads.box_predictor.learner.module.fc.0.weight": torch.randn(1, len(counts))}
    converted, imported = convert(state | learner, "balms", build())
    assert imported.conventions == {"coordinates": "aligned", "stride_in_1x1": True, "pixels": "caffe"}
    model = build(**imported.conventions)
    model.load_state_dict(converted)
    torch.manual_seed(2)
    pixels = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 11), (90, 125), mode="bicubic")[0]
    pixels = (255 * pixels.clamp(0, 1)).round()
    boxes, labels, scores, _ = released.Reference(state, "detectron2").detect(
        pixels, (72, 100), lambda logits, _: logits.sigmoid(), 0.02, 60
    )
    (found,) = model.predict([pixels / 255], [(72, 100)])
    assert len(found.labels) == len(labels) > 5
    torch.testing.assert_close(found.scores, scores, atol=2e-5, rtol=1e-4)
    assert found.labels.tolist() == labels.tolist()
    torch.testing.assert_close(found.boxes, boxes, atol=2e-3, rtol=1e-4)
