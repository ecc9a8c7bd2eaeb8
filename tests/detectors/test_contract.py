"""Properties of every detector, in all installed back ends and in all forms.

The file of a back end tests what is specific to it: that its models equal those of its framework.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_detectors
import torch
import torchvision
from helpers import published_detectors
from pycocotools import mask as coco_mask
from tiny_detectors import BACKENDS, COMBINATIONS, FORMS, REFUSED, batch, batch_for, detector
from torch import Tensor
from torchvision.ops import box_iou

from benchmark.classifiers import Classifier, LinearClassifier, NormedConv2d
from benchmark.detectors.checkpoints import is_classifier, is_counter
from benchmark.detectors.layouts import trunk_name
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.errors import BenchmarkError
from benchmark.images import Target
from benchmark.recipes.catalog import detector_presets
from benchmark.recipes.models import TestSettings
from methods.bags.classifier import GroupSoftmax
from methods.sigmoid.classifier import Sigmoid
from methods.softmax.classifier import Softmax

each_form = pytest.mark.parametrize(("backend", "form"), COMBINATIONS)
each_backend = pytest.mark.parametrize("backend", BACKENDS)
some_forms = pytest.mark.parametrize(
    ("backend", "form"),
    [item for item in COMBINATIONS if item[1] in ("mask_rcnn", "cascade_mask_rcnn", "htc with stuff")],
)


def trunk(model: TwoStageDetector) -> dict[str, torch.nn.Parameter]:
    """The parameters under torchvision's names of a ResNet."""
    named = {trunk_name(name): parameter for name, parameter in model.named_parameters()}
    return {name: parameter for name, parameter in named.items() if name is not None}


# ---- training


@pytest.mark.parametrize("classifier", [Softmax, Sigmoid, GroupSoftmax])
@each_form
def test_every_classifier_trains_in_every_form(backend: str, form: str, classifier: type[Classifier]) -> None:
    """The losses of a cascade's heads have a prefix, and every parameter gets a gradient."""
    model = detector(backend, classifier, **FORMS[form]).train()
    losses = model.losses(*batch_for(model))
    torch.stack(list(losses.values())).sum().backward()
    heads = [""] if model.settings.box_head_count == 1 else ["s0.", "s1.", "s2."]
    expected = {f"{head}{name}" for head in heads for name in ("loss_cls", "loss_box")}
    expected |= {"loss_rpn_objectness", "loss_rpn_box"}
    if model.settings.masks:
        expected |= (
            {"loss_mask"} if form == "cascade of detectron2" else {f"{head}loss_mask" for head in heads}
        )
    if model.settings.semantic_branch:
        expected.add("loss_semantic_seg")
    assert {re.sub("(loss_cls).*", r"\1", name) for name in losses} == expected
    assert all(value.isfinite() and value.shape == () for value in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@each_form
def test_images_without_objects_train_too(backend: str, form: str) -> None:
    """Alone, and together with an image with an object; every parameter still gets a gradient."""
    for changes in ({}, {"roi_background_min_iou": 0.1, "framework": "mmdet_v1"}):
        model = detector(backend, **FORMS[form], **changes).train()
        images, targets = batch_for(model)
        empty = tiny_detectors.without_objects(targets)
        losses = model.losses(images, empty)
        assert all(value.isfinite() for value in losses.values())
        assert all(value == 0 for name, value in losses.items() if re.search("mask|box", name))
        losses = model.losses(images, [empty[0], targets[1]])
        torch.stack(list(losses.values())).sum().backward()
        assert all(value.isfinite() for value in losses.values())
        assert all(parameter.grad is not None for parameter in model.parameters())


@each_form
def test_divergence_shows_in_the_losses(backend: str, form: str) -> None:
    """And does not cause an error in the code after it."""
    model = detector(backend, **FORMS[form]).train()
    with torch.no_grad():
        next(model.pyramid_modules[0].parameters()).fill_(torch.nan)
    losses = model.losses(*batch_for(model))
    assert not torch.stack(list(losses.values())).sum().isfinite()


@each_form
def test_box_features_are_what_the_classifiers_see_in_training(backend: str, form: str) -> None:
    """If normalisation is frozen, losses on the features equal those of training with the same draws."""
    model = detector(backend, norm="frozen", **FORMS[form]).train()
    images, targets = batch_for(model)
    for number, target in enumerate(targets):
        target.seed = 5 + number
    full = model.losses(images, targets)
    rois = model.eval().box_features(images, [Target(t.boxes, t.labels, None, seed=t.seed) for t in targets])
    assert len(rois) == len(model.classifiers) == model.settings.box_head_count
    weights = (1, 1, 1) if form == "cascade of detectron2" else (1, 0.5, 0.25)
    for head, (classifier, seen) in enumerate(zip(model.classifiers, rois, strict=True)):
        assert not seen.features.requires_grad
        assert seen.features.shape == (len(seen.labels), 32)
        assert seen.proposals.shape == (len(seen.labels), 4)
        assert set(seen.labels.tolist()) <= {0, 1, 2, 3}
        assert seen.image_numbers.tolist() == sorted(seen.image_numbers.tolist())
        alone = classifier.loss(classifier(seen.features), seen.labels)["loss_cls"]  # type: ignore[operator]
        prefix = f"s{head}." if len(rois) > 1 else ""
        torch.testing.assert_close(alone * weights[head], full[f"{prefix}loss_cls"])


@each_form
def test_draws_and_features_are_of_the_image_alone(backend: str, form: str) -> None:
    """The same seed gives the same RoIs, independent of other draws and other images in the batch."""
    model = detector(backend, norm="frozen", **FORMS[form]).eval()
    images, targets = batch_for(model)
    for number, target in enumerate(targets):
        target.seed = 7 + number
    both, losses = model.box_features(images, targets), model.losses(images, targets)
    torch.rand(5)
    alone = model.box_features(images[1:], targets[1:], canvas=(64, 96))
    for whole, own in zip(both, alone, strict=True):
        mine = whole.image_numbers == 1
        torch.testing.assert_close(own.proposals, whole.proposals[mine])
        assert own.labels.equal(whole.labels[mine])
        torch.testing.assert_close(own.features, whole.features[mine], rtol=1e-3, atol=1e-4)
    again = model.losses(images, targets)
    assert all(again[name].equal(value) for name, value in losses.items())
    targets[0].seed = 1
    assert not model.box_features(images, targets)[0].proposals.equal(both[0].proposals)


@each_form
def test_chosen_rois_keep_their_features(backend: str, form: str) -> None:
    """A choice of RoIs changes neither their features nor the input of the next head."""
    model = detector(backend, **FORMS[form]).eval()
    images, targets = batch_for(model)
    for target in targets:
        target.seed = 3
    everything = model.box_features(images, targets)
    asked = iter(everything)

    def choose(labels: Tensor, image_numbers: Tensor) -> Tensor:
        head = next(asked)
        assert labels.equal(head.labels)
        assert image_numbers.equal(head.image_numbers)
        return torch.arange(0, len(labels), 3)

    some = model.box_features(images, targets, choose)
    for whole, part in zip(everything, some, strict=True):
        assert part.labels.equal(whole.labels[::3])
        assert part.image_numbers.equal(whole.image_numbers[::3])
        torch.testing.assert_close(part.features, whole.features[::3])
    nothing = model.box_features(images, targets, lambda labels, _: labels[:0])
    assert all(head.features.shape == (0, 32) for head in nothing)


@some_forms
def test_ground_truth_features_honour_what_a_classifier_takes(
    backend: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the last ReLU if the classifier asks for it, and followed by the pooled features if it takes
    them."""
    model = detector(backend, norm="frozen", **FORMS[form]).eval()
    images, targets = batch_for(model)
    activated = model.ground_truth_features(images, targets)
    monkeypatch.setattr(Softmax, "before_activation", True)
    monkeypatch.setattr(Softmax, "takes_pooled", True)
    both = model.ground_truth_features(images, targets)
    for layers, plain, wide in zip(model.box_head_layers, activated, both, strict=True):
        assert torch.equal(wide.labels, torch.cat([target.labels for target in targets]))
        assert torch.equal(wide.proposals, torch.cat([target.boxes for target in targets]))
        assert wide.image_numbers.tolist() == [n for n, target in enumerate(targets) for _ in target.labels]
        assert wide.features.shape == (3, 32 + 16 * 7 * 7)
        assert bool((wide.features[:, :32] < 0).any())
        torch.testing.assert_close(wide.features[:, :32].relu(), plain.features)
        hidden = wide.features[:, 32:]
        for layer in layers:
            hidden = layer(hidden).relu()
        torch.testing.assert_close(hidden, plain.features)


@each_form
def test_mixed_precision_keeps_boxes_to_the_pixel(backend: str, form: str) -> None:
    """bfloat16 represents only every eighth pixel beyond 1024, so boxes must not be converted to it in any
    head."""
    model = detector(backend, **FORMS[form]).eval()
    truth = torch.tensor([[1001.0, 20, 1014, 33]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heads = model.box_features([torch.rand(3, 64, 1100)], [Target(truth, torch.tensor([1]), None)])
        losses = detector(backend, **FORMS[form]).train().losses(*batch_for(model))
    if form != "cascade of detectron2":  # which does not add the ground truth again
        assert all((rois.proposals == truth).all(dim=1).any() for rois in heads)
    for rois in heads:
        assert rois.proposals.dtype == torch.float32
        assert len(torch.unique(rois.proposals * 8 % 1)) > 2  # not the anchors' grid or a coarser one
    assert all(value.isfinite() for value in losses.values())


# ---- testing


class Fixed(LinearClassifier):
    """Gives every RoI the same scores."""

    def __init__(self, in_features: int, statistics: Any) -> None:
        super().__init__(in_features, statistics, width=4)

    def scores(self, logits: Tensor) -> Tensor:
        """0.5, 0.2, 0.05 and background 0.25."""
        return torch.tensor([[0.5, 0.2, 0.05, 0.25]]).expand(len(logits), 4)


@each_form
def test_detections_follow_the_lvis_protocol(backend: str, form: str) -> None:
    """Strict threshold, suppression within a category only, a cap over all categories, original pixels."""
    model = detector(backend, Fixed, TestSettings(score_threshold=0.05), **FORMS[form]).eval()
    images, _ = batch()
    (first, second) = model.predict(images, [(128, 128), (48, 72)])
    for found in (first, second):
        assert set(found.labels.tolist()) == {0, 1}  # 0.05 is not above the threshold
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        for label in (0, 1):
            boxes = found.boxes[found.labels == label]
            assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max().item() <= 0.5 + 1e-5
    assert 64 < first.boxes.max() <= 128  # twice the given image's size
    assert (first.rles is not None) == model.settings.masks
    if first.rles is not None:
        assert coco_mask.decode(first.rles).shape == (128, 128, len(first.labels))
    model.test = TestSettings(score_threshold=0.05, max_detections=3)
    (capped, _) = model.predict(images, [(128, 128), (48, 72)])
    assert capped.scores.tolist() == first.scores[:3].tolist()
    model.test = TestSettings(score_threshold=0.9)
    (nothing, _) = model.predict(images, [(128, 128), (48, 72)])
    assert len(nothing.boxes) == 0
    assert nothing.rles == ([] if model.settings.masks else None)


@each_form
def test_features_serve_all_classifiers(backend: str, form: str) -> None:
    """Detections from shared features equal those of ``predict``, even if the classifiers choose the boxes of
    the next head of a cascade."""
    first, second = (detector(backend, kind, **FORMS[form]).eval() for kind in (Softmax, Sigmoid))
    shared = {name: value for name, value in first.state_dict().items() if not is_classifier(name)}
    second.load_state_dict(shared, strict=False)
    images, sizes = batch()[0], [(64, 64), (48, 72)]
    features = first.test_features(images)
    for model in (first, second, first):
        for found, wanted in zip(
            model.detections(features, sizes), model.predict(images, sizes), strict=True
        ):
            assert found.boxes.equal(wanted.boxes)
            assert found.labels.equal(wanted.labels)
            assert found.scores.equal(wanted.scores)
            assert found.rles == wanted.rles


@pytest.mark.parametrize("pasting", ["grid", "whole_pixels"])
@some_forms
def test_masks_lie_in_their_boxes(backend: str, form: str, pasting: str) -> None:
    """To the pixel; an edge of a mask fades out within half of one of 28 cells."""
    fading = 1 / 56 if pasting == "grid" else 0
    test = TestSettings(mask_threshold=1e-6)
    model = detector(backend, Fixed, test, **FORMS[form], mask_pasting=pasting).eval()
    (found, _) = model.predict(batch()[0], [(64, 64), (48, 72)])
    assert found.rles is not None
    for (x, y, width, height), (x1, y1, x2, y2) in zip(
        coco_mask.toBbox(found.rles).tolist(), found.boxes.tolist(), strict=True
    ):
        if width * height == 0:  # the middle of no pixel is inside
            continue
        beside, above = 1 + fading * (x2 - x1), 1 + fading * (y2 - y1)
        assert x1 - beside < x
        assert y1 - above < y
        assert x + width < x2 + beside
        assert y + height < y2 + above


@pytest.mark.parametrize("agnostic", [False, True])
@some_forms
def test_a_proposal_of_several_categories_has_the_masks_that_it_has_as_each(
    backend: str, form: str, agnostic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detections in one box share features, and the mask if all categories share it."""
    settings = FORMS[form] | {"class_agnostic_boxes": True, "class_agnostic_masks": agnostic}
    model = detector(
        backend, Fixed, TestSettings(score_threshold=0.1, max_detections=1000), **settings
    ).eval()
    images, sizes = batch()[0], [(128, 128), (48, 72)]
    together = model.predict(images, sizes)
    for label, row in enumerate([[0.5, 0, 0, 0.5], [0, 0.5, 0, 0.5]]):
        scores = torch.tensor([row])
        monkeypatch.setattr(Fixed, "scores", lambda _, logits, row=scores: row.expand(len(logits), 4))
        for found, alone in zip(together, model.predict(images, sizes), strict=True):
            assert found.rles is not None
            chosen = (found.labels == label).nonzero()[:, 0].tolist()
            assert found.boxes[chosen].equal(alone.boxes)
            assert [found.rles[number] for number in chosen] == alone.rles
            assert 0 < len(chosen) < len(found.rles)


class HeadScores(Softmax):
    """Logits that are equal for all RoIs: the number of the head."""

    made = 0

    def __init__(self, in_features: int, statistics: Any) -> None:
        super().__init__(in_features, statistics)
        self.head = HeadScores.made % 3
        HeadScores.made += 1

    def forward(self, features: Tensor) -> Tensor:
        """3 for the head's own category, 0 otherwise."""
        return torch.eye(4)[self.head].mul(3).expand(len(features), 4)


@pytest.mark.parametrize(("backend", "form"), [item for item in COMBINATIONS if "cascade" in item[1]])
def test_a_cascade_averages_its_heads(backend: str, form: str) -> None:
    """Averages logits before the scores: softmax of (1, 1, 1, 0); detectron2's cascade averages three
    softmaxes."""
    model = detector(backend, HeadScores, **FORMS[form]).eval()
    expected = torch.tensor([1.0, 1, 1, 0]).softmax(dim=0)[0]
    if form == "cascade of detectron2":
        expected = torch.eye(4)[:3].mul(3).softmax(dim=1).mean(dim=0)[0]
    (found, _) = model.predict(batch()[0], [(64, 64), (48, 72)])
    assert set(found.labels.tolist()) == {0, 1, 2}
    torch.testing.assert_close(found.scores, expected.expand(len(found.scores)))


# ---- settings


@pytest.mark.parametrize(("backend", "form"), [item for item in REFUSED if item[0] in BACKENDS])
def test_what_a_back_end_has_not_is_refused(backend: str, form: str) -> None:
    with pytest.raises(BenchmarkError, match=REFUSED[backend, form]):
        detector(backend, **FORMS[form])
    if backend != "mmdet":
        with pytest.raises(BenchmarkError, match="deformable"):
            detector(backend, backbone="resnet50", deformable=True)


@pytest.mark.parametrize("framework", ["detectron2", "mmdet", "mmdet_v1", "torchvision"])
@each_form
def test_every_frameworks_rules_hold_in_every_back_end(backend: str, form: str, framework: str) -> None:
    model = detector(backend, framework=framework, **FORMS[form])
    images, targets = batch_for(model)
    assert all(value.isfinite() for value in model.train().losses(images, targets).values())
    for head in model.eval().box_features(images, targets):
        sides = head.proposals[:, 2:] - head.proposals[:, :2]
        assert bool((head.proposals >= 0).all())
        assert bool((sides > 0).all())
    assert len(model.predict(images, [(64, 64), (48, 72)])[0].labels) > 0


@each_backend
def test_what_trains_and_what_normalisation_uses(backend: str) -> None:
    """Trained layers from the top, and the three ways of normalisation."""
    frozen = trunk(detector(backend, trainable_layers=3, norm="frozen"))
    fixed = {name.split(".")[0] for name, parameter in frozen.items() if not parameter.requires_grad}
    assert fixed == {"conv1", "layer1"}
    assert not any("bn" in name for name in frozen)
    statistics = detector(backend, trainable_layers=3, norm="frozen_statistics").train()
    norms = {name: parameter for name, parameter in trunk(statistics).items() if "bn" in name}
    trained = {name.split(".")[0] for name, parameter in norms.items() if parameter.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    before = {name: value.clone() for name, value in statistics.named_buffers()}
    torch.stack(list(statistics.losses(*batch()).values())).sum().backward()
    assert all(value.equal(before[name]) for name, value in statistics.named_buffers())
    assert norms["layer2.0.bn1.weight"].grad is not None
    partly = detector(backend, trainable_layers=3, norm="batch").train()
    before = {name: value.clone() for name, value in partly.named_buffers() if not is_counter(name)}
    partly.losses(*batch())
    moved = {
        trunk_name(name)
        for name, value in partly.named_buffers()
        if name in before and not value.equal(before[name])
    }
    assert {str(name).split(".")[0] for name in moved} == {"layer2", "layer3", "layer4"}
    everything = detector(backend, trainable_layers=5, norm="batch")
    assert all(parameter.requires_grad for parameter in everything.parameters())
    assert not any(p.requires_grad for p in trunk(detector(backend, trainable_layers=0)).values())


@each_backend
def test_heads_start_as_the_settings_say(backend: str) -> None:
    changes: dict[str, Any] = {"mask_channels": 16, "class_agnostic_masks": True}
    bounds = {"uniform": 784**-0.5, "xavier": (6 / (784 + 32)) ** 0.5, "caffe2": (3 / 784) ** 0.5}
    for how, bound in bounds.items():
        weight = detector(backend, box_head_init=how).box_head_layers[0][0].weight
        assert 0.98 * bound < weight.abs().max().item() <= bound
    for how, bound in {"xavier": (6 / (144 + 144)) ** 0.5, "caffe2": (3 / 144) ** 0.5}.items():
        model = detector(backend, fpn_init=how)
        weights = [
            p for module in model.pyramid_modules for p in module.parameters() if p.shape == (16, 16, 3, 3)
        ]
        assert 0.98 * bound < max(weight.abs().max().item() for weight in weights) <= bound
    for how, std in {"uniform": (3 * 32) ** -0.5, "normal": 0.001}.items():
        weight = detector(backend, box_regressor_init=how).box_regressors[0].weight
        assert 0.8 * std < weight.std().item() < 1.2 * std
    for how, std in {"normal": 0.001, "kaiming": 2**0.5}.items():
        weight = detector(backend, **changes, mask_predictor_init=how).mask_predictors[0].weight
        assert 0.5 * std < weight.std().item() < 2 * std  # type: ignore[operator]
    for layer in detector(backend).proposal_head.modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert 0.005 < layer.weight.std().item() < 0.02
            assert layer.bias is not None
            assert not layer.bias.any()


@each_backend
def test_settings_reach_the_model(backend: str) -> None:
    normed = detector(backend, mask_predictor="normed", mask_temperature=5.0)
    layer = normed.mask_predictors[0]
    assert isinstance(layer, NormedConv2d)
    logits = layer(torch.rand(2, 16, 4, 4))
    assert logits.shape == (2, 3, 4, 4)
    assert logits.abs().max().item() <= 5
    assert detector(backend).state_dict().keys() == normed.state_dict().keys()
    near = detector(backend, roi_background_min_iou=0.1, **FORMS["cascade_mask_rcnn"]).eval()
    images, targets = batch()
    for head in near.box_features(images, targets):
        for number, target in enumerate(targets):
            boxes = head.proposals[head.image_numbers == number]
            assert box_iou(boxes, target.boxes).amax(dim=1).min().item() >= 0.1
    many = detector(backend, roi_samples=4000, rpn_train_candidates=50, rpn_train_proposals=20).eval()
    (rois,) = many.box_features(images, targets)
    assert rois.image_numbers.bincount().tolist() == [20 + len(target.boxes) for target in targets]
    few = detector(backend, roi_samples=4000, rpn_train_candidates=3, rpn_train_proposals=100).eval()
    (rois,) = few.box_features(images, targets)
    assert all(count <= 5 * 3 + 2 for count in rois.image_numbers.bincount().tolist())


@each_backend
def test_losses_follow_their_settings(backend: str) -> None:
    """Divisors and transition points of the proposal network's and the box heads' losses."""
    images, targets = batch()

    def losses(**changes: Any) -> dict[str, float]:
        for target in targets:
            target.seed = 2
        found = detector(backend, norm="frozen", **changes).train().losses(images, targets)
        return {name: value.item() for name, value in found.items()}

    nominal, drawn = losses(rpn_samples=10**5), losses(rpn_samples=10**5, rpn_loss_divisor="drawn")
    ratio = drawn["loss_rpn_box"] / nominal["loss_rpn_box"]
    assert ratio > 10  # 100,000 an image, of which there are some hundreds
    assert drawn["loss_rpn_objectness"] / nominal["loss_rpn_objectness"] == pytest.approx(ratio, rel=1e-4)
    smooth = losses(rpn_samples=10**5, rpn_smooth_l1_beta=1.0, smooth_l1_beta=1.0)
    for name in ("loss_rpn_box", "loss_box"):
        assert 0 < smooth[name] < nominal[name]
    assert smooth["loss_rpn_objectness"] == nominal["loss_rpn_objectness"]


@each_backend
def test_pixels_are_those_of_the_trunks_makers(backend: str) -> None:
    """The first convolution of a Caffe model gets B, G, R from 0 to 255 minus the mean."""
    image = torch.rand(3, 32, 32)
    seen: list[Tensor] = []
    for name, mean, std, reverse in (
        ("torchvision", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375], False),
        ("caffe", [103.53, 116.28, 123.675], [1.0, 1.0, 1.0], True),
        ("caffe2", [103.53, 116.28, 123.675], [57.375, 57.12, 58.395], True),
    ):
        model = detector(backend, pixels=name).eval()
        model.pyramid = lambda batch: seen.append(batch) or exit_early()  # type: ignore
        with pytest.raises(StopIteration):
            model.ground_truth_features([image], batch()[1][:1])
        ordered = 255 * (image.flip(0) if reverse else image)
        expected = (ordered - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(seen[-1][0], expected, rtol=1e-4, atol=1e-4)


def exit_early() -> None:
    raise StopIteration


# ---- full-size models and presets

PRESETS = {name: item for name, item in detector_presets().items() if name.partition("/")[0] in BACKENDS}
SMALL = {
    key: value
    for key, value in tiny_detectors.TINY.items()
    if key not in ("architecture", "backbone", "norm")
}
SHALLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "torchvision": (
        "_RESNETS",
        {
            "resnet101": ("Bottleneck", [3, 4, 6, 3], {}),
            "resnext101_64x4d": ("Bottleneck", [3, 4, 6, 3], {"groups": 4, "width_per_group": 4}),
        },
    ),
    "mmdet": (
        "_BACKBONES",
        {
            "resnet101": {"type": "ResNet", "depth": 50},
            "resnext101_64x4d": {"type": "ResNeXt", "depth": 50, "groups": 4, "base_width": 4},
        },
    ),
    "detectron2": (
        "_RESNETS",
        {
            "resnet101": ("BottleneckBlock", (3, 4, 6, 3), 1, 64),
            "resnext101_64x4d": ("BottleneckBlock", (3, 4, 6, 3), 4, 4),
        },
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_retrains_and_detects(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At tiny size: a training step with finite losses and gradients, a step of the classifier, a checkpoint,
    detections."""
    backend, _, _ = name.partition("/")
    module = tiny_detectors.importlib.import_module(tiny_detectors.class_of(backend).__module__)
    table, shallow = SHALLOW[backend]
    for backbone, form in shallow.items():
        if isinstance(form, tuple):
            form = (getattr(module, form[0]), *form[1:])
        monkeypatch.setitem(getattr(module, table), backbone, form)
    changes = {**PRESETS[name].settings, **SMALL, "width": 0.25, "weights": {}}
    model = detector(backend, **changes).train()
    images, targets = batch_for(model)
    losses = model.losses(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() for value in losses.values())
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name

    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rois = model.box_features(images, targets)
    optimizer = torch.optim.SGD(model.classifiers.parameters(), lr=1e-4)
    optimizer.zero_grad()
    for classifier, head in zip(model.classifiers, rois, strict=True):
        found = classifier.loss(classifier(head.features), head.labels)  # type: ignore[operator]
        torch.stack(list(found.values())).sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert changed == {key for key in before if key.startswith("classifiers.")}

    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = detector(backend, **changes).eval()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    first, second = (m.predict(images, [(128, 128), (48, 72)]) for m in (model, other))
    assert first[0].boxes.equal(second[0].boxes)
    assert first[0].scores.equal(second[0].scores)
    assert len(first[0].labels) > 0
    assert (first[0].rles is not None) == model.settings.masks
    assert first[0].rles == second[0].rles


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet101", "resnext101_64x4d"])
@each_backend
def test_full_size_trunks_have_the_published_parameters(backend: str, backbone: str) -> None:
    model = detector(backend, backbone=backbone, width=1.0)
    with torch.device("meta"):
        published = getattr(torchvision.models, backbone)()
    wanted = {name: p.shape for name, p in published.named_parameters() if not name.startswith("fc.")}
    assert {name: parameter.shape for name, parameter in trunk(model).items()} == wanted


@each_backend
def test_the_published_detectors_have_presets(backend: str) -> None:
    """All but hybrid task cascades, which only MMDetection has; cascades as published."""
    families = ("faster_", "mask_", "cascade_", "htc_")
    wanted = {name for name in published_detectors() if name.startswith(families)}
    assert len(wanted) > 5
    presets = {name.partition("/")[2] for name in PRESETS if name.startswith(f"{backend}/")}
    lacking = wanted - presets
    assert all(name.startswith("htc") for name in lacking) if backend != "mmdet" else not lacking
