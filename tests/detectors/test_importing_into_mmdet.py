"""Released Mask R-CNNs, cascades and HTCs give the same detections in back end mmdet as in their release."""

from pathlib import Path
from typing import Any

import pytest
import released
import torch
from helpers import statistics_of
from test_importing import (
    CATEGORIES,
    COUNTS,
    FRAMEWORKS,
    SETTINGS,
    TEST,
    check_detections,
    simcal_head,
)
from test_importing import weights as weights_of_mask_rcnn
from torch import Tensor

from benchmark.classifiers import Classifier
from benchmark.detectors.checkpoints import CheckpointError
from benchmark.detectors.importing import _read_heads, convert
from benchmark.detectors.mmcv_ops import provide_operators
from benchmark.errors import MissingDependencyError
from benchmark.recipes.detector_settings import DetectorSettings
from methods.bags.classifier import GroupSoftmax
from methods.gol.classifier import GumbelDropLoss
from methods.simcal.classifier import DualHead
from methods.softmax.classifier import Softmax

try:
    provide_operators()
except MissingDependencyError as missing:
    pytest.skip(str(missing.what), allow_module_level=True)

from benchmark.detectors.mmdet import MMDetDetector

FORMS: dict[str, dict[str, Any]] = {
    "mask_rcnn": {},
    "cascade": {"architecture": "cascade_mask_rcnn", "class_agnostic_boxes": True},
    "htc": {"architecture": "htc", "class_agnostic_boxes": True, "semantic_branch": True},
}
LOGITS = {"bags": CATEGORIES + 6, "simcal": CATEGORIES + 1, "gol": CATEGORIES, "mmdet": CATEGORIES + 1}
RELEASES = [(source, form) for source in ("bags", "simcal", "gol") for form in FORMS]


def classifier(source: str) -> Classifier:
    statistics = statistics_of(COUNTS)
    if source == "simcal":
        return DualHead(released.WIDTH, statistics, 49 * released.CHANNELS, instance_threshold=30)
    kinds: dict[str, type[Classifier]] = {"bags": GroupSoftmax, "gol": GumbelDropLoss, "mmdet": Softmax}
    return kinds[source](released.WIDTH, statistics)


def detector(source: str, form: str, **changes: Any) -> MMDetDetector:
    """The recipe's model of each release; mmdet's own files have a softmax."""
    special = {"mask_predictor": "normed"} if source == "gol" else {}
    settings = DetectorSettings(**(SETTINGS | special | FORMS[form] | changes))
    return MMDetDetector(settings, [classifier(source) for _ in range(settings.box_head_count)], TEST).eval()


def weights(source: str, form: str, categories: int = CATEGORIES) -> dict[str, Tensor]:
    framework = FRAMEWORKS.get(source, "mmdet")
    logits = LOGITS[source] - CATEGORIES + categories
    return released.released_state(framework, categories, logits, form=form)


def heads(form: str) -> list[dict[str, Tensor]]:
    """SimCal's calibrated heads, all different and with low confidence."""
    return [
        {name: value * (0.5 + 0.1 * head) for name, value in simcal_head().items()}
        for head in range(released.BOX_HEADS[form])
    ]


def complete(source: str, form: str) -> dict[str, Tensor]:
    """Weights that include SimCal's heads, with the names that importing gives those of a cascade."""
    state = weights(source, form)
    if source == "simcal":
        for number, head in enumerate(heads(form)):
            prefix = "" if form == "mask_rcnn" else f"head{number}."
            state |= {prefix + name: value for name, value in head.items()}
    return state


@torch.no_grad()
@pytest.mark.parametrize(("source", "form"), RELEASES)
def test_a_release_detects_the_same_after_import(source: str, form: str) -> None:
    """Boxes, labels, scores and masks, against the release's arithmetic on the release's own tensors."""
    converted, imported = convert(complete(source, form), source, detector(source, form))
    assert imported.conventions["coordinates"] == ("aligned" if source == "gol" else "mmdet_v1")
    model = detector(source, form, **imported.conventions)
    model.load_state_dict(converted)
    reference = released.Reference(weights(source, form), FRAMEWORKS[source], form=form)
    check_detections(model, reference, source, *heads(form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("source", LOGITS)
def test_every_key_is_used_or_reported(source: str, form: str) -> None:
    state = complete(source, form)
    _, imported = convert(state, source, detector(source, form))
    assert imported.used + len(imported.left_out) == len(state)
    others = {name for name in imported.left_out if not name.endswith("num_batches_tracked")}
    unused = {f"mask_head.0.conv_res.conv.{key}" for key in ("weight", "bias")}
    assert others == (unused if FRAMEWORKS.get(source) == "mmdet_v1" and form == "htc" else set())
    changed = "\n".join(imported.changed)
    last = "2." if form != "mask_rcnn" else ""
    assert (f"mask_head.{last}conv_logits.bias (7,)" in changed) == (FRAMEWORKS.get(source) == "mmdet_v1")
    assert ("fc_reg" in changed) == (form == "mask_rcnn" and FRAMEWORKS.get(source) == "mmdet_v1")


@pytest.mark.parametrize("form", FORMS)
def test_background_moves_in_every_head(form: str) -> None:
    """mmdetection 1 has it first, and mmdetection 2 last, in whatever file of that framework."""
    for framework in ("mmdet_v1", "mmdet"):
        state = released.released_state(framework, CATEGORIES, CATEGORIES + 1, form=form)
        rows = torch.arange(CATEGORIES + 1.0)
        for key, name in released.names(framework, form).items():
            if key.startswith("classes"):
                state[f"{name}.bias"] = rows + 10 * int(key.partition("@")[2] or 0)
        converted, imported = convert(state, "mmdet", detector("mmdet", form))
        for head in range(released.BOX_HEADS[form]):
            first = framework == "mmdet_v1"
            expected = (rows.roll(-1) if first else rows) + 10 * head
            assert converted[f"classifiers.{head}.linear.bias"].equal(expected)
        assert imported.conventions["coordinates"] == ("mmdet_v1" if first else "aligned")


@pytest.mark.parametrize(("source", "form"), RELEASES)
def test_a_damaged_release_is_refused_with_its_keys(source: str, form: str) -> None:
    state = complete(source, form)
    part = released.names(FRAMEWORKS[source], form)
    end = "" if form == "mask_rcnn" else "@1"
    missing, cut = part[f"classes{end}"], part[f"fc2{end}"]
    del state[f"{missing}.bias"]
    state[f"{cut}.weight"] = state[f"{cut}.weight"][:, :-1]
    state["grid_head.conv.weight"] = torch.zeros(1)
    state["backbone.bn1.running_var"][0] = float("nan")
    with pytest.raises(CheckpointError) as refusal:
        convert(state, source, detector(source, form))
    for words in (
        f"{missing}.bias: missing",
        f"{cut}.weight: shape (32, 31), expected (32, 32)",
        "grid_head.conv.weight: no place in the model",
        "backbone.bn1.running_var: values that are not finite",
    ):
        assert words in str(refusal.value)


@pytest.mark.parametrize("source", ["bags", "simcal", "gol"])
def test_another_number_of_categories_is_refused_in_every_head(source: str) -> None:
    state = weights(source, "htc", CATEGORIES - 1)
    with pytest.raises(CheckpointError) as refusal:
        convert(state, source, detector(source, "htc"))
    part = released.names(FRAMEWORKS[source], "htc")
    for name in ("classes@0", "classes@2", "mask@1"):
        assert f"{part[name]}.weight: shape" in str(refusal.value)
    assert "for 6 categories" in str(refusal.value)


def test_weights_of_another_form_are_refused() -> None:
    """Of an HTC without semantic branch, of a single head, and of a framework other than mmdetection."""
    with pytest.raises(CheckpointError, match=r"semantic_head\.conv_logits\.weight: no place"):
        convert(weights("bags", "htc"), "bags", detector("bags", "htc", semantic_branch=False))
    with pytest.raises(CheckpointError, match=r"bbox_head\.0\.fc_cls\.weight: missing"):
        convert(weights("bags", "mask_rcnn"), "bags", detector("bags", "cascade"))
    with pytest.raises(CheckpointError, match="--from bags or simcal"):
        convert(weights("bags", "cascade"), "gol", detector("bags", "cascade"))
    with pytest.raises(CheckpointError, match="not imported into back end 'mmdet'"):
        convert(weights_of_mask_rcnn("balms"), "balms", detector("mmdet", "mask_rcnn"))


def test_simcal_has_a_calibrated_head_for_each_box_head(tmp_path: Path) -> None:
    """The files have equal names and are assigned in the given order."""
    files = [tmp_path / f"3fc_ft_stage{head}.pth" for head in range(3)]
    for path, head in zip(files, heads("htc"), strict=True):
        torch.save(head, path)
    state = weights("simcal", "htc")
    with pytest.raises(CheckpointError, match="--head FILE, once for each box head"):
        convert(state, "simcal", detector("simcal", "htc"))
    converted, _ = convert(state | _read_heads(files, "simcal", 3), "simcal", detector("simcal", "htc"))
    for number, head in enumerate(heads("htc")):
        bias = head["feat_classifier.fc_classifier.bias"]
        assert converted[f"classifiers.{number}.calibrated.4.bias"].equal(bias.roll(-1))
    with pytest.raises(CheckpointError, match="--head FILE 3 times"):
        _read_heads(files[:1], "simcal", 3)
    with pytest.raises(CheckpointError, match="no second file"):
        _read_heads(files, "bags", 3)


def test_deformable_convolutions_in_the_names_of_mmdetection_1() -> None:
    """The offsets' layer stood beside the convolution that it now belongs to."""
    model = detector("bags", "htc", deformable=True)
    state = {}
    for name, value in model.state_dict().items():
        name = name.replace(".conv2.conv_offset.", ".conv2_offset.").replace("roi_head.", "")
        head = name.split(".")[1]
        name = name.replace(f"classifiers.{head}.linear", f"bbox_head.{head}.fc_cls")
        if "mask_head" in name and "conv_logits" in name:
            value = torch.cat([value[:1], value])
        state[name] = value
    assert sum("conv2_offset" in name for name in state) == 2 * (4 + 6 + 3)
    converted, _ = convert(state, "bags", model)
    assert all(converted[name].equal(value) for name, value in model.state_dict().items())
