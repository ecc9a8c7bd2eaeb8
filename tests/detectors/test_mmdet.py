"""The mmdet back end: every preset, any classifier in every stage, exact freezing, and how it agrees with the
torchvision back end.

Where the architectures coincide (Mask R-CNN with a ResNet and a feature pyramid) and torchvision's
``coordinates`` are ``aligned``, the same weights and images give the same numbers once two differences are
set equal (``as_in_torchvision``): the proposal network has an L1 loss (torchvision: smooth L1 with beta
1/9), and RoIs may match a ground truth below the threshold if nothing overlaps it more. Four remain. Of
masks, mmdet cuts the targets out around the centres of pixels, makes them 0 or 1, and pastes around these
centres; torchvision rounds boxes to pixels. mmdet limits by how much a box may shrink, to 16/1000 of its
anchor, torchvision only by how much it may grow. mmdet sorts proposals by sigmoids, torchvision by logits:
the largest are ties in mmdet. Numbers of proposals are the settings'.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from helpers import published_detectors, statistics_of
from pycocotools import mask as coco_mask
from test_torchvision import TINY, batch
from torch import Tensor
from torchvision.models import resnet18
from torchvision.ops import box_iou

from benchmark.classifiers import Classifier
from benchmark.detectors import torchvision as torchvision_backend
from benchmark.detectors.mmcv_ops import provide_operators
from benchmark.detectors.torchvision import TorchvisionDetector
from benchmark.errors import MissingDependencyError
from benchmark.images import Target
from benchmark.recipes.catalog import detector_presets
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import TestSettings
from methods.bags.classifier import GroupSoftmax
from methods.sigmoid.classifier import Sigmoid
from methods.softmax.classifier import Softmax

try:
    provide_operators()
except MissingDependencyError as missing:
    pytest.skip(str(missing.what), allow_module_level=True)

from benchmark.detectors import mmdet as backend

COUNTS = [3, 50, 400]
PRESETS = {name: item for name, item in detector_presets().items() if name.startswith("mmdet/")}
# A preset's architecture at the sizes of TINY
SMALL = {key: value for key, value in TINY.items() if key not in ("architecture", "backbone", "norm")}
SHALLOW = {
    "resnet101": {"type": "ResNet", "depth": 50},
    "resnext101_64x4d": {"type": "ResNeXt", "depth": 50, "groups": 4, "base_width": 4},
}
CASCADES = {
    "cascade_mask_rcnn": {"architecture": "cascade_mask_rcnn", "class_agnostic_boxes": True},
    "class-specific boxes": {"architecture": "cascade_rcnn"},
    "htc": {"architecture": "htc", "class_agnostic_boxes": True},
    "htc with stuff": {"architecture": "htc", "class_agnostic_boxes": True, "semantic_branch": True},
}


def detector(
    classifier: type[Classifier] = Softmax, test: TestSettings | None = None, **changes: Any
) -> backend.MMDetDetector:
    torch.manual_seed(0)
    settings = DetectorSettings(**(TINY | {"coordinates": "aligned"} | changes))
    classifiers = [classifier(settings.box_head_width, statistics_of(COUNTS)) for _ in range(settings.stages)]
    return backend.MMDetDetector(settings, classifiers, test or TestSettings())


def batch_for(model: backend.MMDetDetector) -> tuple[list[Tensor], list[Target]]:
    images, targets = batch()
    if model.settings.semantic_branch:
        for image, target in zip(images, targets, strict=True):
            target.stuff = torch.randint(0, 183, image.shape[1:], dtype=torch.uint8)
    return images, targets


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_retrains_and_detects(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step at tiny size: finite losses and gradients; a classifier's step, a checkpoint, detections."""
    for trunk, settings in SHALLOW.items():
        monkeypatch.setitem(backend._BACKBONES, trunk, settings)
    changes = {**PRESETS[name].settings, **SMALL, "width": 0.25, "weights": None}
    model = detector(**changes).train()
    images, targets = batch_for(model)
    losses = model.losses(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() and value.shape == () for value in losses.values())
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name

    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rois = model.box_features(images, targets)
    assert len(rois) == len(model.classifiers) == model.settings.stages
    optimizer = torch.optim.SGD(model.classifiers.parameters(), lr=0.1)
    optimizer.zero_grad()
    for classifier, stage in zip(model.classifiers, rois, strict=True):
        assert not stage.features.requires_grad
        torch.stack(list(classifier.loss(classifier(stage.features), stage.labels).values())).sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert changed == {key for key in before if key.startswith("classifiers.")}

    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = detector(**changes).eval()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    first, second = (m.predict(images, [(128, 128), (48, 72)]) for m in (model, other))
    assert first[0].boxes.equal(second[0].boxes)
    assert first[0].scores.equal(second[0].scores)
    assert len(first[0].labels) > 0
    assert (first[0].rles is not None) == model.settings.masks
    assert first[0].rles == second[0].rles


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "resnext101_64x4d"])
def test_full_size_backbones_have_the_published_parameters(backbone: str) -> None:
    settings = DetectorSettings(architecture="mask_rcnn", backbone=backbone)
    config = backend.model_config(settings, num_classes=3)
    with torch.device("meta"):
        trunk = backend.MODELS.build(config.backbone)
    numbers = {"resnet50": 23_508_032, "resnet101": 42_500_160, "resnext101_64x4d": 81_406_272}
    published = getattr(torchvision.models, backbone)
    with torch.device("meta"):
        wanted = {n: p.shape for n, p in published().named_parameters() if not n.startswith("fc.")}
    assert {n: p.shape for n, p in trunk.named_parameters()} == wanted
    assert sum(p.numel() for p in trunk.parameters()) == numbers[backbone]
    assert config.neck.in_channels == [256, 512, 1024, 2048]


def test_the_published_detectors_have_presets() -> None:
    families = ("faster_", "mask_", "cascade_", "htc_")
    wanted = {name for name in published_detectors() if name.startswith(families)}
    assert len(wanted) > 5
    assert wanted <= {name.removeprefix("mmdet/") for name in PRESETS}


@pytest.mark.parametrize("classifier", [Softmax, Sigmoid, GroupSoftmax])
@pytest.mark.parametrize("form", CASCADES)
def test_every_classifier_trains_in_every_cascade(classifier: type[Classifier], form: str) -> None:
    """Losses of the three stages have their prefix, and the stages' weights 1, 0.5 and 0.25."""
    model = detector(classifier, **CASCADES[form]).train()
    losses = model.losses(*batch_for(model))
    parts = {"loss_cls", "loss_box"} | ({"loss_mask"} if model.settings.masks else set())
    expected = {f"s{stage}.{name}" for stage in range(3) for name in parts}
    expected |= {"loss_rpn_objectness", "loss_rpn_box"}
    expected |= {"loss_semantic_seg"} if model.settings.semantic_branch else set()
    assert {re.sub("(loss_cls).*", r"\1", name) for name in losses} == expected
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("changes", [{}, *CASCADES.values()], ids=["mask_rcnn", *CASCADES])
def test_box_features_are_what_the_classifiers_see_in_training(changes: dict[str, Any]) -> None:
    """Where nothing is drawn and normalisation is frozen, losses on the features are those of training."""
    model = detector(norm="frozen", rpn_samples=10**5, roi_samples=4000, **changes).train()
    images, targets = batch_for(model)
    full = model.losses(images, targets)
    rois = model.eval().box_features(images, [Target(t.boxes, t.labels, None) for t in targets])
    for stage, (classifier, seen) in enumerate(zip(model.classifiers, rois, strict=True)):
        alone = classifier.loss(classifier(seen.features), seen.labels)["loss_cls"]
        prefix, weight = (f"s{stage}.", 0.5**stage) if len(rois) > 1 else ("", 1)
        torch.testing.assert_close(alone * weight, full[f"{prefix}loss_cls"])
        assert set(seen.image_numbers.tolist()) == {0, 1}
        assert seen.proposals.shape == (len(seen.labels), 4)


@pytest.mark.parametrize("changes", [{}, CASCADES["htc with stuff"]], ids=["mask_rcnn", "htc with stuff"])
def test_chosen_rois_keep_their_features(changes: dict[str, Any]) -> None:
    model = detector(**changes).eval()
    images, targets = batch_for(model)
    torch.manual_seed(2)
    everything = model.box_features(images, targets)
    torch.manual_seed(2)
    some = model.box_features(images, targets, lambda labels, _: torch.arange(0, len(labels), 3))
    for whole, part in zip(everything, some, strict=True):
        assert part.labels.equal(whole.labels[::3])
        assert part.image_numbers.equal(whole.image_numbers[::3])
        torch.testing.assert_close(part.features, whole.features[::3])


def test_ground_truth_features_honour_what_a_classifier_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the last ReLU if it asks for that, and with the pooled features behind if it takes them."""
    model = detector(norm="frozen", **CASCADES["cascade_mask_rcnn"]).eval()
    images, targets = batch()
    activated = model.ground_truth_features(images, targets)
    monkeypatch.setattr(Softmax, "before_activation", True)
    monkeypatch.setattr(Softmax, "takes_pooled", True)
    both = model.ground_truth_features(images, targets)
    for layers, plain, wide in zip(model.box_head_layers, activated, both, strict=True):
        assert torch.equal(wide.labels, torch.cat([target.labels for target in targets]))
        assert wide.features.shape == (3, 32 + 16 * 7 * 7)
        assert bool((wide.features[:, :32] < 0).any())
        torch.testing.assert_close(wide.features[:, :32].relu(), plain.features)
        hidden = wide.features[:, 32:]
        for layer in layers:
            hidden = layer(hidden).relu()
        torch.testing.assert_close(hidden, plain.features)


class StageScores(Softmax):
    """Logits that are the same for every RoI: the category of the stage that it is in."""

    made = 0

    def __init__(self, in_features: int, statistics: Any) -> None:
        super().__init__(in_features, statistics)
        self.stage = StageScores.made % 3
        StageScores.made += 1

    def forward(self, features: Tensor) -> Tensor:
        """3 for the stage's own category, 0 otherwise."""
        return torch.eye(4)[self.stage].mul(3).expand(len(features), 4)


def test_a_cascade_averages_the_logits_of_its_stages() -> None:
    """Once, before the scores: softmax of (1, 1, 1, 0), not the mean of three softmaxes."""
    model = detector(StageScores, **CASCADES["cascade_mask_rcnn"]).eval()
    expected = torch.tensor([1.0, 1, 1, 0]).softmax(dim=0)[0]
    (found, _) = model.predict(batch()[0], [(64, 64), (48, 72)])
    assert set(found.labels.tolist()) == {0, 1, 2}
    torch.testing.assert_close(found.scores, expected.expand(len(found.scores)))


@pytest.mark.parametrize("form", ["cascade_mask_rcnn", "htc with stuff"])
def test_weights_of_mmdetection_1_train_on(form: str) -> None:
    """In their coordinates; what they detect there is what ``test_importing_into_mmdet`` compares."""
    model = detector(coordinates="mmdet_v1", **CASCADES[form])
    images, targets = batch_for(model)
    assert all(value.isfinite() for value in model.train().losses(images, targets).values())
    rois = model.eval().box_features(images, targets)
    for stage in rois:
        sides = stage.proposals[:, 2:] - stage.proposals[:, :2]
        assert bool((stage.proposals >= 0).all())
        assert bool((sides > 0).all())


def test_images_without_objects_train_too() -> None:
    for changes in ({}, CASCADES["htc"]):
        model = detector(**changes).train()
        images, targets = batch()
        empty = [
            Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), target.masks[:0])
            for target in targets
            if target.masks is not None
        ]
        losses = model.losses(images, empty)
        assert all(value.isfinite() for value in losses.values())


def test_what_trains_and_what_normalisation_uses() -> None:
    """As in the torchvision back end: trained stages from the top, and the three ways of normalisation."""
    frozen = detector(trainable_layers=3, norm="frozen")
    fixed = {name.split(".")[0] for name, p in frozen.backbone.named_parameters() if not p.requires_grad}
    assert {"conv1", "bn1", "layer1"} <= fixed
    assert frozen.backbone.layer2[0].conv1.weight.requires_grad
    assert not frozen.backbone.layer2[0].bn1.weight.requires_grad
    statistics = detector(trainable_layers=3, norm="frozen_statistics").train()
    assert statistics.backbone.layer2[0].bn1.weight.requires_grad
    assert not statistics.backbone.layer2[0].bn1.training
    everything = detector(trainable_layers=5, norm="batch").train()
    assert all(p.requires_grad for p in everything.parameters())
    assert everything.backbone.bn1.training


def test_settings_reach_the_model() -> None:
    normed = detector(mask_predictor="normed", mask_temperature=5.0, class_agnostic_masks=True)
    layer = normed.roi_head.mask_head.conv_logits
    logits = layer(torch.rand(2, 16, 4, 4))
    assert logits.shape == (2, 1, 4, 4)
    assert logits.abs().max().item() <= 5
    uniform = detector(box_regressor_init="uniform").roi_head.bbox_head.fc_reg.weight
    assert 0.8 * 32**-0.5 < uniform.abs().max().item() <= 32**-0.5
    assert detector().roi_head.bbox_head.fc_reg.weight.abs().max().item() < 0.01
    near = detector(roi_background_min_iou=0.1, **CASCADES["cascade_mask_rcnn"]).eval()
    images, targets = batch()
    for stage in near.box_features(images, targets):
        for number, target in enumerate(targets):
            boxes = stage.proposals[stage.image_numbers == number]
            assert box_iou(boxes, target.boxes).amax(dim=1).min().item() >= 0.1
    absolute = backend.model_config(DetectorSettings(**(TINY | {"smooth_l1_beta": 0.0})), 3)
    assert absolute.roi_head.bbox_head.loss_bbox.type == "L1Loss"


def test_imagenet_weights_of_torchvision_fill_the_trunk(tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = resnet18()
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    model = detector(width=1.0, init="imagenet", weights=str(tmp_path / "resnet18.pth"))
    backend.load_initial_weights(model, model.settings)
    wanted = {name: value for name, value in published.state_dict().items() if not name.startswith("fc.")}
    assert all(value.equal(wanted[name]) for name, value in model.backbone.state_dict().items())
    assert wanted.keys() == model.backbone.state_dict().keys()


def test_coco_weights_in_mmdets_layout_are_read(tmp_path: Path) -> None:
    """All that has the same shape: not the classifier, class-specific boxes and masks of other categories."""
    donor = detector()
    state = {name: value + 1 for name, value in donor.state_dict().items() if "classifiers" not in name}
    state["roi_head.bbox_head.fc_cls.weight"] = torch.zeros(81, 32)
    state["roi_head.bbox_head.fc_reg.weight"] = torch.zeros(320, 32)
    torch.save({"meta": {"epoch": 12}, "state_dict": state}, tmp_path / "coco.pth")
    model = detector(init="coco", weights=str(tmp_path / "coco.pth"))
    backend.load_initial_weights(model, model.settings)
    own = model.state_dict()
    different = {name for name in own if name not in state or not own[name].equal(state[name])}
    assert {name.rsplit(".", 1)[0] for name in different} == {
        "classifiers.0.linear",
        "roi_head.bbox_head.fc_reg",
    } - ({"roi_head.bbox_head.fc_reg"} if own["roi_head.bbox_head.fc_reg.weight"].shape[0] == 320 else set())
    nowhere = model.settings.model_copy(update={"weights": None})
    with pytest.raises(MissingDependencyError, match="come from a file"):
        backend.load_initial_weights(model, nowhere)


def test_mixed_precision_keeps_boxes_to_the_pixel() -> None:
    """bfloat16 knows every eighth pixel beyond 1024: boxes must not pass through it, in any stage."""
    model = detector(**CASCADES["class-specific boxes"]).eval()
    truth = torch.tensor([[1001.0, 20, 1014, 33]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stages = model.box_features([torch.rand(3, 64, 1100)], [Target(truth, torch.tensor([1]), None)])
        losses = detector().train().losses(*batch())
    for rois in stages:
        assert rois.proposals.dtype == torch.float32
        assert len(torch.unique(rois.proposals * 8 % 1)) > 2
    assert all(value.isfinite() for value in losses.values())


# ---- agreement with the torchvision back end


NAMES = [
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn_head.rpn_conv."),
    (r"^rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"^rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"^roi_heads\.box_head\.fc6\.", "roi_head.bbox_head.shared_fcs.0."),
    (r"^roi_heads\.box_head\.fc7\.", "roi_head.bbox_head.shared_fcs.1."),
    (r"^roi_heads\.box_regressor\.", "roi_head.bbox_head.fc_reg."),
    (r"^roi_heads\.mask_head\.(\d)\.0\.", r"roi_head.mask_head.convs.\1.conv."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "roi_head.mask_head.upsample."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_head.mask_head.conv_logits."),
]


def as_in_torchvision(model: backend.MMDetDetector, other: TorchvisionDetector) -> None:
    """Its weights, and what MMDetection's configuration does otherwise."""
    state = other.state_dict()
    for pattern, replacement in NAMES:
        state = {re.sub(pattern, replacement, name): value for name, value in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    model.rpn_head.loss_bbox = type(model.roi_head.bbox_head.loss_bbox)(beta=1 / 9)
    model.roi_head.bbox_assigner.match_low_quality = False


# Of the preset mask_rcnn_r50_fpn, but for the numbers of proposals and RoIs
FULL_SIZE = {
    "width": 1.0,
    "fpn_channels": 256,
    "box_head_width": 1024,
    "mask_channels": 256,
    "mask_layers": 4,
}


@pytest.fixture(scope="module", params=["resnet18", "resnet50", "mask_rcnn_r50_fpn"])
def pair(request: pytest.FixtureRequest) -> tuple[TorchvisionDetector, backend.MMDetDetector]:
    """Both back ends with the same weights, random ones that propose and detect something."""
    torch.manual_seed(0)
    full = FULL_SIZE if request.param == "mask_rcnn_r50_fpn" else {}
    changes = {"backbone": "resnet50" if full else request.param, "norm": "frozen", **full}
    changes |= {"coordinates": "aligned", "rpn_samples": 10**5, "roi_samples": 4000}
    settings = DetectorSettings(**(TINY | changes))
    classifier = Softmax(settings.box_head_width, statistics_of(COUNTS))
    theirs = TorchvisionDetector(settings, classifier, TestSettings()).eval()
    with torch.no_grad():
        # neither so small that all scores are alike nor so large that sigmoids are 1
        level = theirs.backbone(torch.rand(1, 3, 64, 64))["0"]
        for block in theirs.backbone.fpn.layer_blocks:
            block[0].weight.div_(level.std())
        for parameter in (*theirs.rpn.head.parameters(), *theirs.roi_heads.parameters()):
            if parameter.ndim > 1:
                parameter.mul_(3)
        theirs.rpn.head.bbox_pred.weight.div_(3)  # no box shrinks to a sixtieth
    ours = detector(**changes).eval()
    as_in_torchvision(ours, theirs)
    return theirs, ours


@pytest.mark.parametrize("sides", [(64, 64), (64, 128)])
def test_both_back_ends_propose_and_score_alike(
    pair: tuple[TorchvisionDetector, backend.MMDetDetector], sides: tuple[int, int]
) -> None:
    torch.manual_seed(1)
    image, truth = torch.rand(3, *sides), batch()[1][0]
    image[:, 10:30, 10:40] += 1
    target = Target(truth.boxes, truth.labels, None)
    theirs, ours = (model.box_features([image], [target])[0] for model in pair)
    assert len(theirs.labels) == len(ours.labels) > 20
    apart = (theirs.proposals[:, None] - ours.proposals).abs().amax(dim=2)
    nearest = apart.argmin(dim=1)
    assert sorted(nearest.tolist()) == list(range(len(nearest)))
    for name in ("proposals", "labels", "features"):
        torch.testing.assert_close(getattr(theirs, name), getattr(ours, name)[nearest], rtol=1e-4, atol=1e-4)
    logits = [model.classifiers[0](rois.features) for model, rois in zip(pair, (theirs, ours), strict=True)]
    torch.testing.assert_close(logits[0], logits[1][nearest], rtol=1e-4, atol=1e-4)


def test_both_back_ends_have_the_same_losses(pair: tuple[TorchvisionDetector, backend.MMDetDetector]) -> None:
    """All but that of masks, whose targets are cut out differently."""
    image, target = torch.rand(3, 64, 64), batch()[1][0]
    theirs, ours = (model.train().losses([image], [target]) for model in pair)
    for model in pair:
        model.eval()
    assert theirs.keys() == ours.keys()
    for name in theirs.keys() - {"loss_mask"}:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours["loss_mask"], theirs["loss_mask"], rtol=0.2, atol=0)


def test_both_back_ends_detect_alike(
    pair: tuple[TorchvisionDetector, backend.MMDetDetector], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, boxes, and masks once they are pasted in the same way."""
    monkeypatch.setattr(backend, "_paste", torchvision_backend._paste)
    image = torch.rand(3, 64, 64)
    (theirs,), (ours,) = (model.predict([image], [(128, 128)]) for model in pair)
    assert len(theirs.labels) == len(ours.labels) > 10
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-4, atol=1e-2)
    assert ours.labels.equal(theirs.labels)
    overlap = np.diag(coco_mask.iou(ours.rles, theirs.rles, [0] * len(ours.labels)))
    assert overlap[coco_mask.area(theirs.rles) > 0].min() > 0.95


def test_masks_are_pasted_where_their_boxes_are() -> None:
    """A mask of ones is its box, to the pixel whose centre lies in it; in chunks, whatever lies outside."""
    boxes = torch.tensor([[3.0, 5, 12, 30], [-4, -4, 8, 8], [20, 20, 70, 60], [1.2, 1.2, 3.8, 4.1]])
    pasted = backend._paste(torch.ones(4, 1, 28, 28), boxes, (40, 50)) >= 0.5
    centres = torch.arange(50) + 0.5
    for plane, (x1, y1, x2, y2) in zip(pasted, boxes.tolist(), strict=True):
        inside = ((centres[:40] > y1) & (centres[:40] < y2))[:, None] & ((centres > x1) & (centres < x2))
        assert plane.equal(inside)
