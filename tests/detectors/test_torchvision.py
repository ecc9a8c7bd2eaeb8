"""Properties of back end torchvision: with torchvision's settings it equals torchvision's Mask R-CNN."""

import pytest
import torch
from model_comparison import check_detections, check_gradients, gradients, make_different
from tiny_detectors import UNDRAWN, batch, bitmaps, detector
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.recipes.models import TestSettings

TEST = TestSettings(score_threshold=0.2, max_detections=200)


def with_background(rows: Tensor, count: int) -> Tensor:
    """torchvision has rows of background before those of the categories, which are not used."""
    return torch.cat([torch.zeros_like(rows[:count]), rows])


@torch.no_grad()
def original_model(model: TwoStageDetector) -> MaskRCNN:
    """torchvision's own model around the same trunk and heads."""
    settings, heads = model.settings, model.roi_heads
    box_predictor = FastRCNNPredictor(settings.box_head_width, 4)
    linear = model.classifiers[0].linear
    box_predictor.cls_score.weight.copy_(linear.weight.roll(1, 0))  # type: ignore[union-attr, operator]
    box_predictor.cls_score.bias.copy_(linear.bias.roll(1, 0))  # type: ignore[union-attr, operator]
    box_predictor.bbox_pred.weight.copy_(with_background(heads.box_regressor.weight, 4))  # type: ignore
    box_predictor.bbox_pred.bias.copy_(with_background(heads.box_regressor.bias, 4))  # type: ignore
    mask_predictor = MaskRCNNPredictor(settings.mask_channels, settings.mask_channels, 4)
    mask_predictor.conv5_mask.load_state_dict(heads.mask_predictor.conv5_mask.state_dict())  # type: ignore
    logits = heads.mask_predictor.mask_fcn_logits  # type: ignore[union-attr]
    mask_predictor.mask_fcn_logits.weight.copy_(with_background(logits.weight, 1))
    mask_predictor.mask_fcn_logits.bias.copy_(with_background(logits.bias, 1))
    return MaskRCNN(
        model.backbone,
        min_size=64,
        max_size=96,
        _skip_resize=True,
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in settings.anchor_sizes), ((0.5, 1.0, 2.0),) * 5
        ),
        rpn_head=model.proposal_head,
        rpn_pre_nms_top_n_train=settings.rpn_train_candidates,
        rpn_post_nms_top_n_train=settings.rpn_train_proposals,
        rpn_pre_nms_top_n_test=settings.rpn_test_candidates,
        rpn_post_nms_top_n_test=settings.rpn_test_proposals,
        rpn_batch_size_per_image=settings.rpn_samples,
        box_batch_size_per_image=settings.roi_samples,
        box_head=heads.box_head,
        box_predictor=box_predictor,
        box_score_thresh=TEST.score_threshold,
        box_nms_thresh=TEST.nms_threshold,
        box_detections_per_img=TEST.max_detections,
        mask_head=heads.mask_head,
        mask_predictor=mask_predictor,
    )


def lively() -> TwoStageDetector:
    counts = {"rpn_train_candidates": 40, "rpn_train_proposals": 30, "rpn_test_candidates": 40}
    model = detector("torchvision", test=TEST, framework="torchvision", norm="frozen", **UNDRAWN, **counts)
    make_different(model)
    with torch.no_grad():
        nn.init.normal_(model.classifiers[0].linear.weight, std=0.1)  # type: ignore
    return model


def test_losses_and_gradients_are_those_of_torchvision() -> None:
    """Except those of masks, because torchvision's mask targets are not 0 or 1."""
    model = lively()
    home = original_model(model).train()
    images, targets = batch()
    given = [
        {"boxes": t.boxes, "labels": t.labels + 1, "masks": bitmaps(t.boxes, *image.shape[1:])}
        for image, t in zip(images, targets, strict=True)
    ]
    wanted = home(images, given)
    found = model.train().losses(images, targets)
    names = {
        "loss_cls": "loss_classifier",
        "loss_box": "loss_box_reg",
        "loss_rpn_objectness": "loss_objectness",
        "loss_rpn_box": "loss_rpn_box_reg",
    }
    for ours, theirs in names.items():
        torch.testing.assert_close(found[ours], wanted[theirs], rtol=1e-5, atol=1e-6)
    assert found.pop("loss_mask").item() == pytest.approx(wanted.pop("loss_mask").item(), rel=0.2)
    theirs = {name: value.clone() for name, value in gradients(home, wanted).items()}  # of shared parameters
    check_gradients(gradients(model, found), theirs, least=40)


def test_detections_are_those_of_torchvision() -> None:
    """Except the position at which masks are pasted."""
    model = lively()
    home = original_model(model).eval()
    images, _ = batch(sizes=((64, 64), (64, 64)))  # in testing torchvision resizes others
    with torch.no_grad():
        wanted = home(images)
    found = model.eval().predict(images, [(image.shape[1], image.shape[2]) for image in images])
    for ours, theirs in zip(found, wanted, strict=True):
        own = (ours.boxes, ours.labels, ours.scores)
        check_detections(own, (theirs["boxes"], theirs["labels"] - 1, theirs["scores"]), least=5)
