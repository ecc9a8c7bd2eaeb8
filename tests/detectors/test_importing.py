"""Imported weights give the same detections as in the release; weights that do not fit are refused with their
names."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import released
import torch
from helpers import statistics_of
from torch import Tensor

from benchmark.classifiers import Classifier
from benchmark.detectors.checkpoints import CheckpointError
from benchmark.detectors.importing import convert, read_released
from benchmark.detectors.torchvision import TorchvisionDetector
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import TestSettings
from methods.bags.classifier import GroupSoftmax
from methods.balms.classifier import BalancedMeta
from methods.gol.classifier import GumbelDropLoss
from methods.simcal.classifier import DualHead
from methods.softmax.classifier import Softmax

COUNTS = [3, 50, 400, 7, 5000, 20]
CATEGORIES = len(COUNTS)
SETTINGS: dict[str, Any] = {
    "architecture": "mask_rcnn",
    "backbone": "resnet50",
    "init": "none",
    "width": released.BASE / 64,
    "fpn_channels": released.CHANNELS,
    "box_head_width": released.WIDTH,
    "mask_channels": released.CHANNELS,
    "rpn_test_candidates": released.PROPOSALS,
    "rpn_test_proposals": released.PROPOSALS,
}
TEST = TestSettings(score_threshold=0.02, max_detections=60)
FRAMEWORKS = {"balms": "detectron2", "bags": "mmdet_v1", "simcal": "mmdet_v1", "gol": "mmdet"}


def detector(source: str, **changes: Any) -> TorchvisionDetector:
    """The recipe's model of each release."""
    statistics = statistics_of(COUNTS)
    classifier: Classifier = {
        "balms": lambda: BalancedMeta(released.WIDTH, statistics),
        "bags": lambda: GroupSoftmax(released.WIDTH, statistics),
        "simcal": lambda: DualHead(released.WIDTH, statistics, 49 * released.CHANNELS, instance_threshold=30),
        "gol": lambda: GumbelDropLoss(released.WIDTH, statistics),
        "softmax": lambda: Softmax(released.WIDTH, statistics),
    }[source]()
    settings = SETTINGS | ({"mask_predictor": "normed"} if source == "gol" else {}) | changes
    return TorchvisionDetector(DetectorSettings(**settings), [classifier], TEST).eval()


def weights(source: str, categories: int = CATEGORIES, *, agnostic: bool = False) -> dict[str, Tensor]:
    """A release's state dict, of SimCal with the second head in it."""
    logits = {"balms": categories, "bags": categories + 6, "simcal": categories + 1, "gol": categories}
    state = released.released_state(FRAMEWORKS[source], categories, logits[source], agnostic=agnostic)
    if source == "balms":
        state["roi_heads.box_predictor.learner.module.fc.0.weight"] = torch.randn(1, categories)
    return state


def simcal_head(layers: int = 3, categories: int = CATEGORIES) -> dict[str, Tensor]:
    torch.manual_seed(1)
    widths = [49 * released.CHANNELS, *[released.WIDTH] * (layers - 1), categories + 1]
    names = {3: ["fc1", "fc2", "fc_classifier"], 2: ["fc1", "fc2"]}[layers]
    prefix = {3: "feat_classifier", 2: "feat_extractor"}[layers]
    state = {}
    for name, ins, outs in zip(names, widths, widths[1:], strict=False):
        state[f"{prefix}.{name}.weight"] = torch.randn(outs, ins) * (1 / ins) ** 0.5
        state[f"{prefix}.{name}.bias"] = torch.randn(outs) * 0.1
    return state


def released_scores(source: str, *heads: dict[str, Tensor]) -> Callable[[Tensor, list[Tensor]], Tensor]:
    """Scores (N, categories) by the rules of each release, in its order of logits.

    From the mean of the heads' logits, the pooled features of each, and SimCal's head of each.
    """

    def group_softmax(logits: Tensor, _: list[Tensor]) -> Tensor:
        # counts 3 and 7; 50 and 20; 400; 5000: each group after its "others"
        bins = [logits[:, a:b].softmax(1) for a, b in ((0, 2), (2, 5), (5, 8), (8, 10), (10, 12))]
        of_category = [
            bins[1][:, 1],
            bins[2][:, 1],
            bins[3][:, 1],
            bins[1][:, 2],
            bins[4][:, 1],
            bins[2][:, 2],
        ]
        return bins[0][:, 1:] * torch.stack(of_category, dim=1)

    def dual(logits: Tensor, pooled: list[Tensor]) -> Tensor:
        found = []
        for hidden, head in zip(pooled, heads, strict=True):
            for name in ("fc1", "fc2"):
                weight, bias = (head[f"feat_classifier.{name}.{key}"] for key in ("weight", "bias"))
                hidden = (hidden @ weight.T + bias).relu()
            weight, bias = (head[f"feat_classifier.fc_classifier.{key}"] for key in ("weight", "bias"))
            found.append(hidden @ weight.T + bias)
        calibrated = torch.stack(found).mean(0).softmax(1)
        few = torch.tensor([False, *[count < 30 for count in COUNTS]])
        return torch.where(few, calibrated, logits.softmax(1))[:, 1:]

    return {
        "balms": lambda logits, _: logits.sigmoid(),
        "bags": group_softmax,
        "simcal": dual,
        "gol": lambda logits, _: torch.exp(-torch.exp(-logits)),
    }[source]


def check_detections(
    model: TwoStageDetector, reference: released.Reference, source: str, *heads: dict[str, Tensor]
) -> None:
    """A model with imported weights detects what the release does.

    The sides of the image are not multiples of 32, and the original has another size.
    """
    torch.manual_seed(2)
    pixels = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 11), (90, 125), mode="bicubic")[0]
    pixels = (255 * pixels.clamp(0, 1)).round()
    if source == "gol":
        normalise_like_gol(reference)
    boxes, labels, scores, masks = reference.detect(
        pixels, (72, 100), released_scores(source, *heads), TEST.score_threshold, TEST.max_detections
    )
    seen: list[list[tuple[Tensor, Tensor]]] = []
    inner = model._mask_probabilities
    model._mask_probabilities = lambda *arguments: seen.append(inner(*arguments)) or seen[-1]  # type: ignore
    (found,) = model.predict([pixels / 255], [(72, 100)])
    assert len(found.labels) == len(labels) > 5
    assert len(set(labels.tolist())) > 1
    torch.testing.assert_close(found.scores, scores, atol=2e-5, rtol=1e-4)
    assert found.labels.tolist() == labels.tolist()
    torch.testing.assert_close(found.boxes, boxes, atol=2e-3, rtol=1e-4)
    probabilities, owners = seen[0][0]
    torch.testing.assert_close(probabilities[owners], masks, atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("source", list(FRAMEWORKS))
def test_a_release_detects_the_same_after_import(source: str, agnostic: bool) -> None:
    """Boxes, labels, scores and masks equal those of the release's arithmetic on its own tensors."""
    state, head = weights(source, agnostic=agnostic), simcal_head()
    model = detector(source, class_agnostic_boxes=agnostic, class_agnostic_masks=agnostic)
    converted, imported = convert(state | (head if source == "simcal" else {}), source, model)
    model = detector(
        source, class_agnostic_boxes=agnostic, class_agnostic_masks=agnostic, **imported.conventions
    )
    model.load_state_dict(converted)
    reference = released.Reference(state, FRAMEWORKS[source], agnostic=agnostic)
    check_detections(model, reference, source, head)


def normalise_like_gol(reference: released.Reference) -> None:
    """Cosines times 20 in the last mask layer."""
    plain = reference.convolve

    def convolve(part: str, x: Tensor) -> Tensor:
        if part.partition("@")[0] != "mask":
            return plain(part, x)
        weight, bias = (reference.state[f"{reference.part[part]}.{key}"] for key in ("weight", "bias"))
        x = 20 * x / (x.norm(dim=1, keepdim=True) + 1e-6)
        return torch.nn.functional.conv2d(x, weight / (weight.norm(dim=1, keepdim=True) + 1e-6), bias)

    reference.convolve = convolve  # type: ignore[method-assign]


def test_every_key_of_a_release_is_used_or_reported() -> None:
    for source in FRAMEWORKS:
        state = weights(source) | (simcal_head() if source == "simcal" else {})
        _, imported = convert(state, source, detector(source))
        assert imported.used + len(imported.left_out) == len(state)
        assert all(
            name.endswith("num_batches_tracked") or "cell_anchors" in name or name.startswith("pixel_")
            for name in imported.left_out
        )
    _, imported = convert(weights("bags"), "bags", detector("bags"))
    changed = "\n".join(imported.changed)
    assert "bbox_head.fc_reg.weight (28, 32) -> roi_heads.box_regressor.weight (24, 32)" in changed
    assert "mask_head.conv_logits.bias (7,)" in changed
    assert "fc_cls" not in changed  # the bins are in the order of the release


def test_files_of_the_frameworks_themselves() -> None:
    """Background last and first in mmdetection's two forms, first in torchvision, last in detectron2."""
    model = detector("softmax")
    rows = torch.arange(CATEGORIES + 1.0)
    for source, framework in (("mmdet", "mmdet_v1"), ("mmdet", "mmdet"), ("detectron2", "detectron2")):
        state = released.released_state(framework, CATEGORIES, CATEGORIES + 1)
        name = released.names(framework)["classes"] + ".bias"
        state[name] = rows
        converted, imported = convert(state, source, model)
        first = framework == "mmdet_v1"
        assert converted["classifiers.0.linear.bias"].tolist() == (rows.roll(-1) if first else rows).tolist()
        assert imported.conventions["coordinates"] == ("mmdet_v1" if first else "aligned")
    own = model.state_dict()
    old = {r"rpn.head.conv.0.0": "rpn.head.conv"}
    old |= {f"roi_heads.mask_head.{i}.0": f"roi_heads.mask_head.mask_fcn{i + 1}" for i in range(4)}
    old |= {
        f"backbone.fpn.{kind}_blocks.{i}.0": f"backbone.fpn.{kind}_blocks.{i}"
        for kind in ("inner", "layer")
        for i in range(4)
    }
    for naming in ({}, old):
        theirs = {}
        for name, value in own.items():
            if "regressor" in name:
                name, value = name.replace("regressor", "predictor.bbox_pred"), torch.cat([value[:4], value])
            elif "fcn_logits" in name:
                value = torch.cat([value[:1], value])
            elif name.startswith("classifiers"):
                name = name.replace("classifiers.0.linear", "roi_heads.box_predictor.cls_score")
                value = value.roll(1, 0)
            for new, former in naming.items():
                name = name.replace(new, former)
            theirs[name] = value
        converted, imported = convert(theirs, "torchvision", model)
        expected = {"coordinates": "torchvision", "stride_in_1x1": False, "pixels": "torchvision"}
        assert imported.conventions == expected
        assert all(torch.equal(converted[name], value) for name, value in own.items())


def test_detectron2_tells_input_and_stride_by_its_normalisation() -> None:
    state = weights("balms")
    bgr = released.RGB_MEAN.flip(0)
    for mean, std, pixels in (
        (released.RGB_MEAN, released.RGB_STD, "torchvision"),
        (bgr, torch.ones(3), "caffe"),
        (bgr, torch.tensor([57.375, 57.12, 58.395]), "caffe2"),
    ):
        state["pixel_mean"], state["pixel_std"] = mean, std
        _, imported = convert(state, "balms", detector("balms"))
        assert imported.conventions["pixels"] == pixels
        assert imported.conventions["stride_in_1x1"] is (pixels == "caffe")
    state["pixel_mean"] = torch.tensor([127.5, 127.5, 127.5])
    with pytest.raises(CheckpointError, match="normalised"):
        convert(state, "balms", detector("balms"))
    del state["pixel_mean"], state["pixel_std"]
    _, imported = convert(state, "balms", detector("balms"))
    assert imported.conventions["pixels"] == "caffe"
    assert "no pixel_mean" in imported.text()


def _without(state: dict[str, Tensor]) -> list[str]:
    lost = [name for name in state if name.endswith("conv2.weight")][3:5]
    for name in lost:
        del state[name]
    return [f"{name}: missing" for name in lost]


def _misshapen(state: dict[str, Tensor]) -> list[str]:
    name = next(name for name in state if name.endswith(("fc1.weight", "shared_fcs.0.weight")))
    state[name] = state[name][:, :-1]
    return [f"{name}: shape (32, 783), expected (32, 784)"]


def _foreign(state: dict[str, Tensor]) -> list[str]:
    state["semantic_head.conv.weight"] = torch.zeros(1)
    return ["semantic_head.conv.weight: no place in the model"]


def _endless(state: dict[str, Tensor]) -> list[str]:
    name = next(name for name in state if name.endswith("running_var"))
    state[name][0] = float("nan")
    return [f"{name}: values that are not finite"]


@pytest.mark.parametrize("damage", [_without, _misshapen, _foreign, _endless])
@pytest.mark.parametrize("source", list(FRAMEWORKS))
def test_a_damaged_release_is_refused_with_its_keys(
    source: str, damage: Callable[[dict[str, Tensor]], list[str]]
) -> None:
    state = weights(source) | (simcal_head() if source == "simcal" else {})
    said = damage(state)
    with pytest.raises(CheckpointError) as refusal:
        convert(state, source, detector(source))
    for words in said:
        assert words in str(refusal.value)


@pytest.mark.parametrize("source", list(FRAMEWORKS))
def test_another_number_of_categories_is_refused(source: str) -> None:
    state = weights(source, CATEGORIES - 1)
    if source == "simcal":
        state |= simcal_head(categories=CATEGORIES - 1)
    with pytest.raises(CheckpointError) as refusal:
        convert(state, source, detector(source))
    part = released.names(FRAMEWORKS[source])
    for name in ("classes", "deltas", "mask"):
        assert f"{part[name]}.weight: shape" in str(refusal.value)
    assert "for 6 categories" in str(refusal.value)
    if source == "simcal":
        assert "feat_classifier.fc_classifier.weight" in str(refusal.value)


def test_simcals_heads() -> None:
    """The second file is required; the head with two layers has other names; background is moved."""
    state = weights("simcal")
    with pytest.raises(CheckpointError, match="--head FILE"):
        convert(state, "simcal", detector("simcal"))
    classifier = DualHead(released.WIDTH, statistics_of(COUNTS), 49 * released.CHANNELS, layers=2)
    model = TorchvisionDetector(DetectorSettings(**SETTINGS), [classifier], TEST)
    converted, _ = convert(state | simcal_head(2), "simcal", model)
    bias = simcal_head(2)["feat_extractor.fc2.bias"]
    assert torch.equal(converted["classifiers.0.calibrated.2.bias"], bias.roll(-1))
    assert torch.equal(
        converted["classifiers.0.calibrated.0.bias"], simcal_head(2)["feat_extractor.fc1.bias"]
    )


def test_a_file_of_another_layout_is_recognised() -> None:
    with pytest.raises(CheckpointError, match="--from balms or detectron2"):
        convert(weights("balms"), "bags", detector("bags"))


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched"),))


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": _Code()}, tmp_path / "code.pth")
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(_Code()))
    (tmp_path / "short.pth").write_bytes((tmp_path / "code.pth").read_bytes()[:100])
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": torch.zeros(1), "epoch": 12}, tmp_path / "mixed.pth")
    for name in ("code.pth", "code.pkl", "short.pth", "list.pth", "mixed.pth", "absent.pth"):
        with pytest.raises(CheckpointError, match=name):
            read_released(tmp_path / name)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("wrapped", ["state_dict", "model", None])
def test_state_dicts_are_found_where_the_frameworks_put_them(tmp_path: Path, wrapped: str | None) -> None:
    state = {"module.a.weight": torch.ones(2), "module.a.bias": torch.zeros(2)}
    torch.save({wrapped: state, "meta": {"epoch": 12}} if wrapped else state, tmp_path / "weights.pth")
    assert list(read_released(tmp_path / "weights.pth")) == ["a.weight", "a.bias"]
