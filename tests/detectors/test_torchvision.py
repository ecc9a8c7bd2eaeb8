"""The torchvision back end: any classifier in it, the LVIS test protocol, exact freezing, initial weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import golden_cases
from helpers import statistics_of
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops import box_iou

from benchmark.classifiers import Classifier, LinearClassifier, NormedConv2d
from benchmark.detectors.torchvision import TorchvisionDetector, load_initial_weights
from benchmark.errors import BenchmarkError, MissingDependencyError
from benchmark.images import Target
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import TestSettings
from methods.bags.classifier import GroupSoftmax
from methods.sigmoid.classifier import Sigmoid
from methods.softmax.classifier import Softmax

COUNTS = [3, 50, 400]
TINY: dict[str, Any] = {
    "architecture": "mask_rcnn",
    "backbone": "resnet18",
    "init": "none",
    "width": 0.25,
    "norm": "batch",
    "trainable_layers": 5,
    "fpn_channels": 16,
    "box_head_width": 32,
    "mask_channels": 16,
    "mask_layers": 1,
    "anchor_sizes": [8, 16, 32, 64, 128],
    "rpn_samples": 32,
    "rpn_train_proposals": 60,
    "rpn_test_proposals": 30,
    "roi_samples": 16,
}


def detector(
    classifier: type[Classifier] = Softmax, test: TestSettings | None = None, **changes: Any
) -> TorchvisionDetector:
    torch.manual_seed(0)
    settings = DetectorSettings(**(TINY | changes))
    return TorchvisionDetector(settings, classifier(32, statistics_of(COUNTS)), test or TestSettings())


def batch() -> tuple[list[Tensor], list[Target]]:
    torch.manual_seed(1)
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 72)]
    boxes = [torch.tensor([[4.0, 4, 30, 30], [20, 20, 60, 50]]), torch.tensor([[10.0, 8, 40, 40]])]
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    masks = []
    for image, box in zip(images, boxes, strict=True):
        mask = torch.zeros(len(box), *image.shape[1:], dtype=torch.uint8)
        for plane, (x1, y1, x2, y2) in zip(mask, box.long().tolist(), strict=True):
            plane[y1:y2, x1:x2] = 1
        masks.append(mask)
    return images, [Target(*item) for item in zip(boxes, labels, masks, strict=True)]


@pytest.mark.parametrize("classifier", [Softmax, Sigmoid, GroupSoftmax])
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("architecture", ["faster_rcnn", "mask_rcnn"])
def test_every_classifier_trains_in_every_form(
    classifier: type[Classifier], agnostic: bool, architecture: str
) -> None:
    model = detector(
        classifier, architecture=architecture, class_agnostic_boxes=agnostic, class_agnostic_masks=agnostic
    ).train()
    losses = model.losses(*batch())
    torch.stack(list(losses.values())).sum().backward()
    assert {name.split("_")[1] for name in losses} == {"cls", "box", "rpn"} | (
        {"mask"} if architecture == "mask_rcnn" else set()
    )
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_images_without_objects_train_too() -> None:
    images, _ = batch()
    empty = [
        Target(
            torch.zeros(0, 4),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, *i.shape[1:], dtype=torch.uint8),
        )
        for i in images
    ]
    losses = detector().train().losses(images, empty)
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_mask"] == losses["loss_box"] == 0


class Fixed(LinearClassifier):
    """Gives every RoI the same scores."""

    def __init__(self, in_features: int, statistics: Any) -> None:
        super().__init__(in_features, statistics, width=4)

    def scores(self, logits: Tensor) -> Tensor:
        """0.5, 0.2, 0.05 and background 0.25."""
        return torch.tensor([[0.5, 0.2, 0.05, 0.25]]).expand(len(logits), 4)


def test_detections_follow_the_lvis_protocol() -> None:
    """Strict threshold, suppression within a category only, a cap over all categories, original pixels."""
    model = detector(Fixed, TestSettings(score_threshold=0.05), class_agnostic_boxes=True).eval()
    images, _ = batch()
    (first, second) = model.predict(images, [(128, 128), (48, 72)])
    for found in (first, second):
        assert set(found.labels.tolist()) == {0, 1}  # 0.05 is not above the threshold
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        for label in (0, 1):
            boxes = found.boxes[found.labels == label]
            assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max().item() <= 0.5 + 1e-5
    assert first.boxes.max() > 64  # twice the given image's size
    assert first.boxes.max() <= 128
    assert first.rles is not None
    decoded = coco_mask.decode(first.rles)
    assert decoded.shape == (128, 128, len(first.labels))
    model.test = TestSettings(score_threshold=0.05, max_detections=3)
    (capped, _) = model.predict(images, [(128, 128), (48, 72)])
    assert capped.scores.tolist() == first.scores[:3].tolist()


def test_masks_lie_in_their_boxes() -> None:
    model = detector(Fixed, TestSettings(mask_threshold=1e-6), class_agnostic_boxes=True).eval()
    (found, _) = model.predict(batch()[0], [(64, 64), (48, 72)])
    assert found.rles is not None
    for (x, y, width, height), (x1, y1, x2, y2) in zip(
        coco_mask.toBbox(found.rles).tolist(), found.boxes.tolist(), strict=True
    ):
        # pasting pads a mask by one of its 28 cells on each side
        slack_x, slack_y = (x2 - x1) / 28 + 1.5, (y2 - y1) / 28 + 1.5
        assert x >= x1 - slack_x
        assert y >= y1 - slack_y
        assert x + width <= x2 + slack_x
        assert y + height <= y2 + slack_y


def test_box_features_are_what_the_classifier_sees_in_training() -> None:
    """With frozen normalisation the classifier's loss on the features is that of a full training step."""
    model = detector(norm="frozen").train()
    images, targets = batch()
    torch.manual_seed(5)
    model.rpn.fg_bg_sampler = lambda labels: (
        [label >= 1 for label in labels],
        [label == 0 for label in labels],
    )
    full = model.losses(images, targets)["loss_cls"]
    model.eval()
    torch.manual_seed(5)
    (rois,) = model.box_features(images, [Target(t.boxes, t.labels, None) for t in targets])
    assert not rois.features.requires_grad
    assert rois.features.shape == (32, 32)
    assert rois.proposals.shape == (32, 4)
    assert set(rois.labels.tolist()) <= {0, 1, 2, 3}
    assert rois.image_numbers.tolist() == [0] * 16 + [1] * 16
    alone = model.classifiers[0].loss(model.classifiers[0](rois.features), rois.labels)["loss_cls"]
    torch.testing.assert_close(alone, full)


@pytest.mark.parametrize("before", [False, True])
def test_ground_truth_features_are_those_of_the_boxes(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One RoI for each annotation; a classifier that asks for it gets them before the last ReLU."""
    model = detector(norm="frozen").eval()
    images, targets = batch()
    activated = model.ground_truth_features(images, targets)[0].features
    monkeypatch.setattr(type(model.classifiers[0]), "before_activation", before)
    (rois,) = model.ground_truth_features(images, targets)
    assert torch.equal(rois.labels, torch.cat([target.labels for target in targets]))
    assert torch.equal(rois.proposals, torch.cat([target.boxes for target in targets]))
    assert rois.image_numbers.tolist() == [n for n, target in enumerate(targets) for _ in target.labels]
    assert bool((rois.features < 0).any()) == before
    assert torch.equal(rois.features.relu(), activated)


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "resnext101_64x4d"])
def test_full_size_backbones_have_the_published_parameters(backbone: str) -> None:
    with torch.device("meta"):
        settings = DetectorSettings(architecture="mask_rcnn", backbone=backbone, trainable_layers=3)
        model = TorchvisionDetector(settings, Softmax(1024, statistics_of(COUNTS)), TestSettings())
    frozen = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    assert (
        sum(p.numel() for p in model.backbone.body.parameters())
        == {
            "resnet50": 23_454_912,
            "resnet101": 42_394_816,
            "resnext101_64x4d": 81_203_392,
        }[backbone]
    )


def test_imagenet_weights_from_a_file_fill_the_trunk(tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = resnet18()
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    model = detector(width=1.0, init="imagenet", weights=str(tmp_path / "resnet18.pth"))
    load_initial_weights(model, model.settings)
    torch.testing.assert_close(model.backbone.body.layer3[0].conv1.weight, published.layer3[0].conv1.weight)


def test_coco_weights_in_torchvisions_published_layout_are_read(tmp_path: Path) -> None:
    """The file on the hub has the names of 2019; layers for its 91 classes are not taken."""
    published = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = published.state_dict()
    old = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        .replace("roi_heads.mask_head.0.0.", "roi_heads.mask_head.mask_fcn1.")
        .replace("_blocks.2.0.", "_blocks.2."): value
        for name, value in state.items()
    }
    torch.save(old, tmp_path / "coco.pth")
    settings = DetectorSettings(
        architecture="mask_rcnn", backbone="resnet50", init="coco", weights=str(tmp_path / "coco.pth")
    )
    model = TorchvisionDetector(settings, Softmax(1024, statistics_of(COUNTS)), TestSettings())
    load_initial_weights(model, settings)
    own = model.state_dict()
    different = {
        name for name, value in own.items() if name not in state or not torch.equal(value, state[name])
    }
    assert {name.rsplit(".", 1)[0] for name in different} == {
        "classifiers.0.linear",
        "roi_heads.box_regressor",
        "roi_heads.mask_predictor.mask_fcn_logits",
    }


def test_weights_that_cannot_be_had_are_one_clear_error(tmp_path: Path) -> None:
    model = detector()
    no_hub = model.settings.model_copy(update={"init": "coco"})
    with pytest.raises(MissingDependencyError, match="no COCO weights"):
        load_initial_weights(model, no_hub)
    absent = model.settings.model_copy(update={"init": "imagenet", "weights": str(tmp_path / "no.pth")})
    with pytest.raises(MissingDependencyError, match="cannot read the initial weights"):
        load_initial_weights(model, absent)
    torch.save({"something": torch.zeros(3)}, tmp_path / "other.pth")
    other = model.settings.model_copy(update={"init": "imagenet", "weights": str(tmp_path / "other.pth")})
    with pytest.raises(BenchmarkError, match="fit no tensor"):
        load_initial_weights(model, other)


def test_frozen_statistics_train_scale_and_shift_of_the_upper_stages() -> None:
    """As mmdetection trains a ResNet: the stored mean and variance stay, in training too."""
    model = detector(norm="frozen_statistics", trainable_layers=3).train()
    body = model.backbone.body
    before = {name: value.clone() for name, value in body.named_buffers()}
    losses = model.losses(*batch())
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.equal(before[name]) for name, value in body.named_buffers())
    assert body.layer2[0].bn1.weight.grad is not None
    assert body.layer2[0].bn1.weight.grad.any()
    assert not body.layer1[0].bn1.weight.requires_grad
    assert not body.bn1.weight.requires_grad
    names = {name for name, _ in resnet18().named_parameters() if not name.startswith("fc.")}
    assert names <= {name for name, _ in body.named_parameters()}  # ImageNet weights find their place


def test_a_normed_mask_predictor_scores_cosines() -> None:
    model = detector(mask_predictor="normed", mask_temperature=5.0)
    layer = model.roi_heads.mask_predictor.mask_fcn_logits
    assert isinstance(layer, NormedConv2d)
    assert not layer.bias.any()
    logits = layer(torch.rand(2, 16, 4, 4))
    assert logits.shape == (2, 3, 4, 4)
    assert logits.abs().max().item() <= 5
    plain = detector()
    assert plain.state_dict().keys() == model.state_dict().keys()
    torch.stack(list(model.train().losses(*batch()).values())).sum().backward()
    assert layer.weight.grad is not None


def test_the_box_regressor_may_start_as_any_linear_layer() -> None:
    weight = detector(box_regressor_init="uniform").roi_heads.box_regressor.weight
    bound = 32**-0.5
    assert 0.8 * bound < weight.abs().max().item() <= bound
    assert detector().roi_heads.box_regressor.weight.abs().max().item() < 0.01


def test_mixed_precision_keeps_boxes_to_the_pixel() -> None:
    """bfloat16 knows every eighth pixel beyond 1024: boxes must not pass through it."""
    model = detector(architecture="faster_rcnn").eval()
    truth = torch.tensor([[1001.0, 20, 1014, 33]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (rois,) = model.box_features([torch.rand(3, 64, 1100)], [Target(truth, torch.tensor([1]), None)])
    assert rois.proposals.dtype == torch.float32
    assert (rois.proposals == truth).all(dim=1).any()
    assert len(torch.unique(rois.proposals * 8 % 1)) > 2  # not the anchors' grid or a coarser one


@pytest.mark.parametrize("case", golden_cases("simcal", "proposal_sampler_low_threshold"))
def test_background_below_the_least_overlap_is_not_sampled(case: dict[str, Any]) -> None:
    """Boxes are made to have the overlaps of the case; ground truth is put last here and first there."""
    inputs, expected = case["inputs"], case["expected"]
    truth = torch.tensor([[500.0 * n, 0, 500 * n + 100, 100] for n in range(len(inputs["gt_labels"]))])
    assigned = [max(number, 1) - 1 for number in inputs["assigned_gt"]]
    proposals = torch.stack(
        [
            truth[gt] * torch.tensor([1, 1, 1, overlap])
            for gt, overlap in zip(assigned, inputs["max_overlap"], strict=True)
        ]
    )
    least = case["hyperparameters"]["negative_min_overlap"]
    heads = detector(roi_samples=512, roi_background_min_iou=least).roi_heads
    boxes = torch.cat([truth, proposals])
    _, (labels,) = heads.assign_targets_to_proposals([boxes], [truth], [torch.tensor(inputs["gt_labels"])])
    positive, negative = (labels > 0).nonzero().flatten(), (labels == 0).nonzero().flatten()
    assert positive.tolist() == expected["positive_indices_gt_first"]
    assert negative.tolist() == expected["negative_indices_gt_first"]
    assert labels[positive].tolist() == expected["positive_labels"]


def test_chosen_rois_keep_their_features() -> None:
    """Choosing happens before the features are computed, and changes none of them."""
    model = detector().eval()
    torch.manual_seed(2)
    (everything,) = model.box_features(*batch())
    chosen = torch.arange(0, len(everything.labels), 3)

    def choose(labels: Tensor, image_numbers: Tensor) -> Tensor:
        assert labels.equal(everything.labels)
        assert image_numbers.equal(everything.image_numbers)
        return chosen

    torch.manual_seed(2)
    (some,) = model.box_features(*batch(), choose)
    assert some.labels.equal(everything.labels[chosen])
    assert some.image_numbers.equal(everything.image_numbers[chosen])
    torch.testing.assert_close(some.features, everything.features[chosen])
    (nothing,) = model.box_features(*batch(), lambda labels, _: labels[:0])
    assert nothing.features.shape == (0, 32)


def test_pooled_features_are_what_the_box_head_takes() -> None:
    class Both(Softmax):
        takes_pooled = True

    plain, both = detector().eval(), detector(Both).eval()
    both.load_state_dict(plain.state_dict())
    expected, found = (model.ground_truth_features(*batch())[0].features for model in (plain, both))
    assert found.shape == (3, 32 + 16 * 7 * 7)
    torch.testing.assert_close(found[:, :32], expected)
    hidden = found[:, 32:]
    for layer in both.box_head_layers[0]:
        hidden = layer(hidden).relu()
    torch.testing.assert_close(hidden, expected)
