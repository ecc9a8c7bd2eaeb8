"""The detectron2 back end: every preset, any classifier in every stage, exact freezing, initial weights, and
how it agrees with detectron2 itself and with the torchvision back end.

Where the architectures coincide (Mask R-CNN with a ResNet and a feature pyramid) and torchvision's
``coordinates`` are ``aligned``, the same weights, images and seeds give the same draws, logits, losses and
detections once one difference is set equal (``as_in_torchvision``): the proposal network has an L1 loss
(torchvision: smooth L1 with beta 1/9). Three remain. detectron2 cuts the targets of masks out around the
centres of pixels and makes them 0 or 1, and it pastes masks around these centres; torchvision rounds boxes to
pixels. It divides the losses of the proposal network by the anchors that should be sampled, torchvision by
those that are, which differs where an image has fewer. Proposals that tie may come in another order.
"""

import importlib.util
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import released
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
from benchmark.detectors.checkpoints import CheckpointError
from benchmark.detectors.colours import OURS
from benchmark.detectors.importing import convert, read_released
from benchmark.detectors.layouts import DETECTRON2
from benchmark.detectors.torchvision import TorchvisionDetector
from benchmark.errors import BenchmarkError, MissingDependencyError
from benchmark.images import Target
from benchmark.recipes.catalog import detector_presets
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import TestSettings
from methods.bags.classifier import GroupSoftmax
from methods.balms.classifier import BalancedMeta
from methods.sigmoid.classifier import Sigmoid
from methods.softmax.classifier import Softmax

if importlib.util.find_spec("detectron2") is None:
    pytest.skip("back end 'detectron2' is not installed", allow_module_level=True)

from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks

from benchmark.detectors import detectron2 as backend

COUNTS = [3, 50, 400]
PRESETS = {name: item for name, item in detector_presets().items() if name.startswith("detectron2/")}
# A preset's architecture at the sizes of TINY
SMALL = {key: value for key, value in TINY.items() if key not in ("architecture", "backbone", "norm")}
SHALLOW = {
    "resnet101": (backend.BottleneckBlock, (3, 4, 6, 3), 1, 64),
    "resnext101_64x4d": (backend.BottleneckBlock, (3, 4, 6, 3), 4, 4),
}
FORMS = {
    "mask_rcnn": {},
    "agnostic": {"class_agnostic_boxes": True, "class_agnostic_masks": True},
    "cascade_rcnn": {"architecture": "cascade_rcnn", "class_agnostic_boxes": True},
    "cascade_mask_rcnn": {"architecture": "cascade_mask_rcnn", "class_agnostic_boxes": True},
}
CASCADE = FORMS["cascade_mask_rcnn"]


def detector(
    classifier: type[Classifier] = Softmax, test: TestSettings | None = None, **changes: Any
) -> backend.Detectron2Detector:
    torch.manual_seed(0)
    settings = DetectorSettings(**(TINY | {"coordinates": "aligned"} | changes))
    classifiers = [classifier(settings.box_head_width, statistics_of(COUNTS)) for _ in range(settings.stages)]
    return backend.Detectron2Detector(settings, classifiers, test or TestSettings())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_retrains_and_detects(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step at tiny size: finite losses and gradients; a classifier's step, a checkpoint, detections."""
    for trunk, settings in SHALLOW.items():
        monkeypatch.setitem(backend._RESNETS, trunk, settings)
    changes = {**PRESETS[name].settings, **SMALL, "width": 0.25, "weights": None}
    model = detector(**changes).train()
    images, targets = batch()
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
    optimizer = torch.optim.SGD(model.classifiers.parameters(), lr=1e-4)
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


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet101", "resnext101_64x4d"])
def test_full_size_backbones_have_the_published_parameters(backbone: str) -> None:
    form = {"architecture": "mask_rcnn", "backbone": backbone, "norm": "batch", "trainable_layers": 5}
    with torch.device("meta"):
        found = backend.trunk(DetectorSettings(**form))
        published = getattr(torchvision.models, backbone)()
    own = {f"backbone.bottom_up.{name}": p.shape for name, p in found.named_parameters()}
    assert own == {
        DETECTRON2.theirs(f"backbone.body.{name}", "torchvision"): p.shape
        for name, p in published.named_parameters()
        if not name.startswith("fc.")
    }
    strides = {name: shape.stride for name, shape in found.output_shape().items()}
    assert strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def test_the_published_detectors_have_presets() -> None:
    """All but hybrid task cascades, which detectron2 has not."""
    wanted = {name for name in published_detectors() if name.startswith(("faster_", "mask_", "cascade_"))}
    assert len(wanted) > 5
    assert wanted <= {name.removeprefix("detectron2/") for name in PRESETS}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architecture": "htc"}, "no hybrid task cascade"),
        ({"backbone": "resnet50", "deformable": True}, "deformable convolutions"),
        ({"architecture": "cascade_rcnn"}, "boxes for all categories alike"),
        ({"coordinates": "torchvision"}, "coordinates of detectron2"),
    ],
)
def test_what_detectron2_has_not_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(BenchmarkError, match=named):
        detector(**changes)


@pytest.mark.parametrize("classifier", [Softmax, Sigmoid, GroupSoftmax])
@pytest.mark.parametrize("form", FORMS)
def test_every_classifier_trains_in_every_form(classifier: type[Classifier], form: str) -> None:
    """Losses of a cascade's stages have their prefix; masks have one loss."""
    model = detector(classifier, **FORMS[form]).train()
    losses = model.losses(*batch())
    prefixes = [""] if model.settings.stages == 1 else ["s0.", "s1.", "s2."]
    expected = {f"{prefix}{name}" for prefix in prefixes for name in ("loss_cls", "loss_box")}
    expected |= {"loss_rpn_objectness", "loss_rpn_box"} | ({"loss_mask"} if model.settings.masks else set())
    assert {re.sub("(loss_cls).*", r"\1", name) for name in losses} == expected
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_box_features_are_what_the_classifiers_see_in_training(changes: dict[str, Any]) -> None:
    """Where nothing is drawn and normalisation is frozen, losses on the features are those of training."""
    model = detector(norm="frozen", rpn_samples=10**5, roi_samples=4000, **changes).train()
    images, targets = batch()
    full = model.losses(images, targets)
    rois = model.eval().box_features(images, [Target(t.boxes, t.labels, None) for t in targets])
    for stage, (classifier, seen) in enumerate(zip(model.classifiers, rois, strict=True)):
        alone = classifier.loss(classifier(seen.features), seen.labels)["loss_cls"]
        prefix, weight = (f"s{stage}.", 0.5**stage) if len(rois) > 1 else ("", 1)
        torch.testing.assert_close(alone * weight, full[f"{prefix}loss_cls"])
        assert set(seen.image_numbers.tolist()) == {0, 1}
        assert seen.proposals.shape == (len(seen.labels), 4)


def test_draws_are_of_the_image_alone() -> None:
    """The same seed, the same RoIs and losses, whatever else is drawn in between."""
    model = detector(norm="frozen", **CASCADE)
    images, targets = batch()
    for number, target in enumerate(targets):
        target.seed = 7 + number
    first, one = model.eval().box_features(images, targets), model.train().losses(images, targets)
    torch.rand(5)
    (alone,) = (stages[0] for stages in [model.eval().box_features(images[1:], targets[1:])])
    assert alone.proposals.equal(first[0].proposals[first[0].image_numbers == 1])
    again = model.train().losses(images, targets)
    assert all(again[name].equal(value) for name, value in one.items())
    targets[0].seed = 1
    assert not model.eval().box_features(images, targets)[0].proposals.equal(first[0].proposals)


@pytest.mark.parametrize("changes", [{}, CASCADE], ids=["mask_rcnn", "cascade_mask_rcnn"])
def test_chosen_rois_keep_their_features(changes: dict[str, Any]) -> None:
    model = detector(**changes).eval()
    images, targets = batch()
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
    model = detector(norm="frozen", **CASCADE).eval()
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


def test_a_cascade_scores_the_mean_logits_of_its_stages() -> None:
    """As all back ends do where the method does not say otherwise."""
    model = detector(StageScores, **CASCADE).eval()
    expected = torch.eye(4)[:3].mul(3).mean(dim=0).softmax(dim=0)[0]
    (found, _) = model.predict(batch()[0], [(64, 64), (48, 72)])
    assert set(found.labels.tolist()) == {0, 1, 2}
    torch.testing.assert_close(found.scores, expected.expand(len(found.scores)))


def test_images_without_objects_train_too() -> None:
    for changes in ({"roi_background_min_iou": 0.1}, CASCADE):
        model = detector(**changes).train()
        images, targets = batch()
        empty = [
            Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), target.masks[:0])
            for target in targets
            if target.masks is not None
        ]
        losses = model.losses(images, empty)
        assert all(value.isfinite() for value in losses.values())
        losses = model.losses(images, [empty[0], targets[1]])
        assert all(value.isfinite() for value in losses.values())
        assert losses["loss_mask"] > 0


def test_divergence_shows_in_the_losses() -> None:
    """And not as an error of detectron2, which refuses proposals that are not finite."""
    for changes in FORMS.values():
        model = detector(**changes).train()
        with torch.no_grad():
            model.backbone.fpn_lateral2.weight.fill_(torch.nan)
        losses = model.losses(*batch())
        assert not torch.stack(list(losses.values())).sum().isfinite()


def test_what_trains_and_what_normalisation_uses() -> None:
    """As in the torchvision back end: trained stages from the top, and the three ways of normalisation."""
    frozen = detector(trainable_layers=3, norm="frozen").backbone.bottom_up
    fixed = {name.split(".")[0] for name, p in frozen.named_parameters() if not p.requires_grad}
    assert fixed == {"stem", "res2"}
    assert all(name.endswith("weight") for name, _ in frozen.res3.named_parameters())
    assert not any("norm" in name for name, _ in frozen.named_parameters())
    statistics = detector(trainable_layers=3, norm="frozen_statistics").train().backbone.bottom_up
    assert statistics.res3[0].conv1.norm.weight.requires_grad
    assert not statistics.res3[0].conv1.norm.training
    assert not any("norm" in name for name, _ in statistics.res2.named_parameters())
    everything = detector(trainable_layers=5, norm="batch").train()
    assert all(p.requires_grad for p in everything.parameters())
    assert everything.backbone.bottom_up.stem.conv1.norm.training
    assert not any(p.requires_grad for p in detector(trainable_layers=0).backbone.bottom_up.parameters())


def test_settings_reach_the_model() -> None:
    normed = detector(mask_predictor="normed", mask_temperature=5.0, class_agnostic_masks=True)
    logits = normed.roi_heads.mask_head.layers(torch.rand(2, 16, 14, 14))
    assert logits.shape == (2, 1, 28, 28)
    assert logits.abs().max().item() <= 5
    uniform = detector(box_regressor_init="uniform").roi_heads.box_predictor.bbox_pred.weight
    assert 0.8 * 32**-0.5 < uniform.abs().max().item() <= 32**-0.5
    assert detector().roi_heads.box_predictor.bbox_pred.weight.abs().max().item() < 0.01
    near = detector(roi_background_min_iou=0.1, **CASCADE).eval()
    images, targets = batch()
    for stage in near.box_features(images, targets):
        for number, target in enumerate(targets):
            boxes = stage.proposals[stage.image_numbers == number]
            assert box_iou(boxes, target.boxes).amax(dim=1).min().item() >= 0.1
    assert detector(smooth_l1_beta=0.0).roi_heads.box_predictor.smooth_l1_beta == 0
    bottleneck = detector(backbone="resnet50", stride_in_1x1=True).backbone.bottom_up.res3[0]
    assert (bottleneck.conv1.stride, bottleneck.conv2.stride) == ((2, 2), (1, 1))


# ---- initial weights


def test_imagenet_weights_of_torchvision_fill_the_trunk(tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = resnet18()
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    model = detector(width=1.0, init="imagenet", weights=str(tmp_path / "resnet18.pth"))
    backend.load_initial_weights(model, model.settings)
    wanted = {
        DETECTRON2.theirs(f"backbone.body.{name}", "torchvision"): value
        for name, value in published.state_dict().items()
        if not name.startswith("fc.")
    }
    found = {name: value for name, value in model.state_dict().items() if "bottom_up" in name}
    assert found.keys() == wanted.keys()
    assert all(value.equal(wanted[name]) for name, value in found.items())


def trunk_arrays(model: backend.Detectron2Detector) -> dict[str, np.ndarray]:
    """Other numbers for a trunk, under its own names, without batch norms' statistics."""
    return {
        name: value.numpy() + 1
        for name, value in model.backbone.bottom_up.state_dict().items()
        if "running" not in name
    }


def as_caffe2(name: str) -> str:
    """``res2.0.conv1.norm.weight`` is ``res2_0_branch2a_bn_s`` there."""
    name = name.replace("stem.conv1.norm", "res.conv1.bn").replace("stem.", "")
    for theirs, ours in (("1", "shortcut"), ("2a", "conv1"), ("2b", "conv2"), ("2c", "conv3")):
        name = name.replace(f".{ours}", f".branch{theirs}") if name.startswith("res") else name
    name = name.replace("res.branch2a", "res.conv1").replace(".norm", ".bn")
    ends = {"bn.weight": "bn.s", "bn.bias": "bn.b", "weight": "w"}
    end = next(item for item in ends if name.endswith(item))
    return (name.removesuffix(end) + ends[end]).replace(".", "_")


@pytest.mark.parametrize("form", ["caffe2", "detectron2"])
def test_imagenet_weights_of_the_model_zoo_fill_the_trunk(form: str, tmp_path: Path) -> None:
    """Channels in the order B, G, R, pixels up to 255, the stride in the 1x1 convolution: all as at home."""
    path = tmp_path / "R-50.pkl"
    changes = {"backbone": "resnet50", "init": "imagenet", "weights": str(path), "norm": "frozen"}
    model = detector(stride_in_1x1=True, **changes)
    arrays = trunk_arrays(model)
    content: dict[str, Any] = {as_caffe2(name): value for name, value in arrays.items()}
    if form == "detectron2":
        content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=2))
    backend.load_initial_weights(model, model.settings)
    found = model.backbone.bottom_up.state_dict()
    for name, value in arrays.items():
        if name != "stem.conv1.weight":
            assert found[name].equal(torch.tensor(value)), name
    pixels = torch.rand(1, 3, 32, 32).mul(255).round()
    mean = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    wanted = torch.nn.functional.conv2d(pixels - mean, torch.tensor(arrays["stem.conv1.weight"]))
    rgb = (pixels.flip(1) / 255 - model.mean) / model.std
    torch.testing.assert_close(
        torch.nn.functional.conv2d(rgb, found["stem.conv1.weight"]), wanted, rtol=1e-4, atol=0.1
    )
    other = detector(**changes)
    with pytest.raises(BenchmarkError, match="stride in another convolution"):
        backend.load_initial_weights(other, other.settings)


def test_coco_weights_of_the_model_zoo_are_read(tmp_path: Path) -> None:
    """All that has the same shape: not the classifier, class-specific boxes and masks of other categories."""
    donor = detector()
    state = {name: value + 1 for name, value in donor.state_dict().items() if "classifiers" not in name}
    state["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(81, 32)
    state["roi_heads.box_predictor.bbox_pred.weight"] = torch.zeros(320, 32)
    state["roi_heads.mask_head.predictor.weight"] = torch.zeros(80, 16, 1, 1)
    rgb = {"pixel_mean": OURS, "pixel_std": 255 * torch.tensor(backend.IMAGE_STD)}
    zoo = {name: value.numpy() for name, value in (state | rgb).items()}
    for path, content in (
        (tmp_path / "model_final.pkl", pickle.dumps({"model": zoo, "__author__": "Detectron2 Model Zoo"})),
        (tmp_path / "model_final.pth", None),
    ):
        if content is None:
            torch.save({"model": state | rgb, "iteration": 9}, path)
        else:
            path.write_bytes(content)
        model = detector(init="coco", weights=str(path))
        backend.load_initial_weights(model, model.settings)
        own = model.state_dict()
        different = {name for name in own if name not in state or own[name].shape != state[name].shape}
        for name in own.keys() - different:
            torch.testing.assert_close(own[name], state[name])
        assert different == {
            "classifiers.0.linear.weight",
            "classifiers.0.linear.bias",
            "roi_heads.box_predictor.bbox_pred.weight",
            "roi_heads.mask_head.predictor.weight",
        }
    nowhere = model.settings.model_copy(update={"weights": None})
    with pytest.raises(MissingDependencyError, match="come from a file"):
        backend.load_initial_weights(model, nowhere)


def test_a_file_with_orders_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {"stem.conv1.weight": Path("somewhere")}}))
    model = detector(init="imagenet", weights=str(path))
    with pytest.raises(MissingDependencyError, match="an order to load"):
        backend.load_initial_weights(model, model.settings)


def test_mixed_precision_keeps_boxes_to_the_pixel() -> None:
    """bfloat16 knows every eighth pixel beyond 1024: boxes must not pass through it, in any stage."""
    model = detector(**CASCADE).eval()
    truth = torch.tensor([[1001.0, 20, 1014, 33]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stages = model.box_features([torch.rand(3, 64, 1100)], [Target(truth, torch.tensor([1]), None)])
        losses = detector().train().losses(*batch())
    for rois in stages:
        assert rois.proposals.dtype == torch.float32
        assert len(torch.unique(rois.proposals * 8 % 1)) > 2
    assert all(value.isfinite() for value in losses.values())


def test_masks_are_pasted_where_their_boxes_are() -> None:
    """A mask of ones is its box, to the pixel whose centre lies in it, whatever lies outside."""
    boxes = torch.tensor([[3.0, 5, 12, 30], [-4, -4, 8, 8], [20, 20, 70, 60], [1.2, 1.2, 3.8, 4.1]])
    pasted = detector()._paste(torch.ones(4, 1, 28, 28), boxes, (40, 50)) >= 0.5
    centres = torch.arange(50) + 0.5
    for plane, (x1, y1, x2, y2) in zip(pasted, boxes.tolist(), strict=True):
        inside = ((centres[:40] > y1) & (centres[:40] < y2))[:, None] & ((centres > x1) & (centres < x2))
        assert plane.equal(inside)


# ---- finished weights


@torch.no_grad()
def test_imported_weights_of_balms_detect_what_they_did_at_home() -> None:
    """By the release's arithmetic, which is written down for the torchvision back end's import."""
    counts = [3, 50, 400, 7, 5000, 20]
    sizes = {"fpn_channels": released.CHANNELS, "box_head_width": released.WIDTH, "mask_layers": 4}
    sizes |= {"mask_channels": released.CHANNELS, "rpn_test_proposals": released.PROPOSALS}
    form = TINY | sizes | {"backbone": "resnet50", "norm": "frozen", "coordinates": "aligned"}
    form |= {"width": released.BASE / 64, "anchor_sizes": [32, 64, 128, 256, 512]}

    def build(**conventions: Any) -> backend.Detectron2Detector:
        classifier = BalancedMeta(released.WIDTH, statistics_of(counts))
        test = TestSettings(score_threshold=0.02, max_detections=60)
        return backend.Detectron2Detector(DetectorSettings(**(form | conventions)), [classifier], test).eval()

    state = released.released_state("detectron2", len(counts), len(counts))
    learner = {"roi_heads.box_predictor.learner.module.fc.0.weight": torch.randn(1, len(counts))}
    converted, imported = convert(state | learner, "balms", build())
    assert imported.conventions == {"coordinates": "aligned", "stride_in_1x1": True}
    assert "channels from BGR to RGB" in imported.text()
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


@pytest.mark.parametrize("form", ["mask_rcnn", "cascade_mask_rcnn"])
def test_a_model_of_the_zoo_is_imported_under_its_own_names(form: str, tmp_path: Path) -> None:
    model = detector(**FORMS[form])
    zoo = {name: value.numpy() for name, value in at_home_names(model).items()}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": zoo, "__author__": "Detectron2 Model Zoo"}))
    converted, imported = convert(read_released(path), "detectron2", model)
    own = model.state_dict()
    assert {name for name in own if not own[name].equal(converted[name])} == {backend.FIRST_CONVOLUTION}
    assert imported.conventions["stride_in_1x1"]
    assert "no pixel_mean" in imported.text()
    del zoo["roi_heads.mask_head.deconv.bias"]
    path.write_bytes(pickle.dumps({"model": zoo}))
    with pytest.raises(CheckpointError, match=r"mask_head\.deconv\.bias: missing"):
        convert(read_released(path), "detectron2", model)
    path.write_bytes(pickle.dumps(Path("somewhere")))
    with pytest.raises(CheckpointError, match="an order to load"):
        read_released(path)


def at_home_names(model: backend.Detectron2Detector) -> dict[str, Tensor]:
    """A softmax model's tensors under detectron2's names, the classifiers' too."""
    number = "" if model.settings.stages == 1 else r".\1"
    return {
        re.sub(r"^classifiers\.(\d)\.linear", f"roi_heads.box_predictor{number}.cls_score", name): value
        for name, value in model.state_dict().items()
    }


# ---- agreement with detectron2's own models


def at_home(model: backend.Detectron2Detector) -> torch.nn.Module:
    """detectron2's model of the same settings and weights, built from its configuration."""
    settings, test = model.settings, model.test
    cfg = get_cfg()
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
        **{
            f"RPN.{when}_NMS_TOPK_{mode}": count
            for when in ("PRE", "POST")
            for mode, count in (
                ("TRAIN", settings.rpn_train_proposals),
                ("TEST", settings.rpn_test_proposals),
            )
        },
        "ROI_HEADS.NAME": "StandardROIHeads" if settings.stages == 1 else "CascadeROIHeads",
        "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "ROI_HEADS.NUM_CLASSES": len(COUNTS),
        "ROI_HEADS.BATCH_SIZE_PER_IMAGE": settings.roi_samples,
        "ROI_HEADS.SCORE_THRESH_TEST": test.score_threshold,
        "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "ROI_BOX_HEAD.NUM_FC": 2,
        "ROI_BOX_HEAD.FC_DIM": settings.box_head_width,
        "ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": settings.class_agnostic_boxes,
        "ROI_BOX_HEAD.SMOOTH_L1_BETA": settings.smooth_l1_beta,
        "MASK_ON": True,
        "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "ROI_MASK_HEAD.NUM_CONV": settings.mask_layers,
        "ROI_MASK_HEAD.CONV_DIM": settings.mask_channels,
        "ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
        "PIXEL_MEAN": [255 * value for value in backend.IMAGE_MEAN],
        "PIXEL_STD": [255 * value for value in backend.IMAGE_STD],
    }
    cfg.merge_from_list([item for name, value in values.items() for item in (f"MODEL.{name}", value)])
    cfg.TEST.DETECTIONS_PER_IMAGE = test.max_detections
    cfg.INPUT.FORMAT = "RGB"
    theirs = build_model(cfg)
    theirs.load_state_dict(at_home_names(model))
    return theirs


@pytest.fixture(scope="module", params=["mask_rcnn", "cascade_mask_rcnn"])
def home(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, backend.Detectron2Detector]:
    """detectron2's own model and ours with the same weights; all anchors and RoIs are taken."""
    ours = detector(
        test=TestSettings(score_threshold=0.2, max_detections=40),
        backbone="resnet50",
        norm="frozen",
        rpn_samples=10**5,
        roi_samples=4000,
        **FORMS[request.param],
    )
    with torch.no_grad():
        for parameter in ours.roi_heads.mask_head.parameters():
            parameter.mul_(3)
    return at_home(ours), ours


def test_losses_are_those_of_detectron2(home: tuple[torch.nn.Module, backend.Detectron2Detector]) -> None:
    """A cascade's stages but for their weights."""
    theirs, ours = home
    images, targets = batch()
    inputs = []
    for image, target in zip(images, targets, strict=True):
        truth = backend.Instances(tuple(image.shape[1:]))
        truth.gt_boxes, truth.gt_classes = backend.Boxes(target.boxes), target.labels
        truth.gt_masks = BitMasks(target.masks)
        inputs.append({"image": 255 * image, "instances": truth})
    with backend.EventStorage():
        wanted = theirs.train()(inputs)
    found = ours.train().losses(images, targets)
    ours.eval()
    weights = {"": 1.0, "_stage0": 1.0, "_stage1": 0.5, "_stage2": 0.25}
    renamed = {"loss_rpn_objectness": ("loss_rpn_cls", ""), "loss_rpn_box": ("loss_rpn_loc", "")}
    for name, value in found.items():
        stage, _, plain = name.rpartition(".")
        end = f"_stage{stage[1]}" if stage else ""
        their_name, end = renamed.get(name, (plain.replace("loss_box", "loss_box_reg"), end))
        torch.testing.assert_close(value, weights[end] * wanted.pop(their_name + end), rtol=1e-4, atol=1e-6)
    assert not wanted


def mean_of_scores(stages: Sequence[Tensor], objectness: Tensor) -> Tensor:
    """How detectron2 itself combines the stages of a cascade."""
    return torch.stack([logits.softmax(dim=1) for logits in stages]).mean(dim=0)


def test_detections_are_those_of_detectron2(
    home: tuple[torch.nn.Module, backend.Detectron2Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the stages are combined as there."""
    theirs, ours = home
    monkeypatch.setattr(ours.classifiers[-1], "detection_scores", mean_of_scores)
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        (wanted,) = theirs.eval()([{"image": 255 * image, "height": 128, "width": 192}])
    instances = wanted["instances"]
    (found,) = ours.predict([image], [(128, 192)])
    assert len(found.labels) == len(instances) > 10
    assert found.labels.equal(instances.pred_classes)
    torch.testing.assert_close(found.scores, instances.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.boxes, instances.pred_boxes.tensor, rtol=1e-4, atol=1e-2)
    planes = np.ascontiguousarray(coco_mask.decode(found.rles).transpose(2, 0, 1)).astype(bool)
    assert (planes != instances.pred_masks.numpy()).mean() < 1e-4
    assert planes.any()


# ---- agreement with the torchvision back end


def as_in_torchvision(model: backend.Detectron2Detector, other: TorchvisionDetector) -> None:
    """Its weights, and what detectron2's proposal network does otherwise."""
    own = other.state_dict()
    state = {
        name if name.startswith("classifiers.") else DETECTRON2.theirs(name, "torchvision"): own[name]
        for name in own
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing
    assert not unexpected
    model.proposal_generator.smooth_l1_beta = 1 / 9


@pytest.fixture(scope="module", params=["resnet18", "resnet50"])
def pair(request: pytest.FixtureRequest) -> tuple[TorchvisionDetector, backend.Detectron2Detector]:
    """Both back ends with the same weights, random ones that propose and detect something."""
    torch.manual_seed(0)
    changes = {"backbone": request.param, "norm": "frozen", "rpn_train_proposals": 200}
    changes |= {"coordinates": "aligned"}
    settings = DetectorSettings(**(TINY | changes))
    theirs = TorchvisionDetector(settings, Softmax(32, statistics_of(COUNTS)), TestSettings()).eval()
    with torch.no_grad():
        for parameter in (*theirs.rpn.head.parameters(), *theirs.roi_heads.parameters()):
            if parameter.ndim > 1:
                parameter.mul_(3)
    ours = detector(**changes).eval()
    as_in_torchvision(ours, theirs)
    return theirs, ours


@pytest.mark.parametrize("sides", [(64, 64), (64, 128)])
def test_both_back_ends_propose_draw_and_score_alike(
    pair: tuple[TorchvisionDetector, backend.Detectron2Detector], sides: tuple[int, int]
) -> None:
    """16 RoIs of each image, drawn with the image's seed: the same ones in the same order."""
    torch.manual_seed(1)
    image, truth = torch.rand(3, *sides), batch()[1][0]
    image[:, 10:30, 10:40] += 1
    target = Target(truth.boxes, truth.labels, None, seed=11)
    theirs, ours = (model.box_features([image], [target])[0] for model in pair)
    assert len(theirs.labels) == len(ours.labels) == 16
    torch.testing.assert_close(theirs.proposals, ours.proposals, rtol=1e-4, atol=1e-3)
    assert theirs.labels.equal(ours.labels)
    torch.testing.assert_close(theirs.features, ours.features, rtol=1e-4, atol=1e-4)
    logits = [model.classifiers[0](rois.features) for model, rois in zip(pair, (theirs, ours), strict=True)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def test_both_back_ends_have_the_same_losses(
    pair: tuple[TorchvisionDetector, backend.Detectron2Detector],
) -> None:
    """With drawn anchors and RoIs. All but that of masks, whose targets are cut out differently."""
    image, target = torch.rand(3, 64, 64), batch()[1][0]
    target.seed = 3
    theirs, ours = (model.train().losses([image], [target]) for model in pair)
    for model in pair:
        model.eval()
    assert theirs.keys() == ours.keys()
    for name in theirs.keys() - {"loss_mask"}:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours["loss_mask"], theirs["loss_mask"], rtol=0.2, atol=0)


def test_both_back_ends_detect_alike(
    pair: tuple[TorchvisionDetector, backend.Detectron2Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, boxes, and masks once they are pasted in the same way."""
    monkeypatch.setattr(pair[1], "_paste", torchvision_backend._paste, raising=False)
    image = torch.rand(3, 64, 64)
    (theirs,), (ours,) = (model.predict([image], [(128, 128)]) for model in pair)
    assert len(theirs.labels) == len(ours.labels) > 10
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-4, atol=1e-2)
    assert ours.labels.equal(theirs.labels)
    overlap = np.diag(coco_mask.iou(ours.rles, theirs.rles, [0] * len(ours.labels)))
    assert overlap[coco_mask.area(theirs.rles) > 0].min() > 0.95
