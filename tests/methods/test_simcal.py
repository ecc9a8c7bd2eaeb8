"""Scores, selection, heads and schedule equal the release; the original classifier does not change."""

from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import golden_cases, tolerance, values_of_formula
from helpers import statistics_of
from hypothesis import given
from hypothesis import strategies as st
from released_layout import background_last, labels_from_released
from torch import Tensor

from benchmark.detectors.torchvision import TorchvisionDetector
from benchmark.errors import BenchmarkError
from benchmark.recipes.catalog import Catalog
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import TestSettings
from benchmark.recipes.project import project_root
from benchmark.sampling import LabelledImages
from benchmark.statistics import ClassStatistics
from benchmark.training.optimisation import plan
from methods.simcal.classifier import CalibrationHead, DualHead
from methods.simcal.rois import balanced_rois, first_of_background
from methods.simcal.sampler import CategoryFirstStream, draw_probabilities
from methods.simcal.stages import copy_box_head

COUNTS = {
    "lvis_v05": project_root() / "tests" / "data" / "lvis_v0.5_categories.csv",
    "lvis_v1": project_root() / "tests" / "data" / "lvis_v1_categories.csv",
    "coco_lt": project_root() / "workflows" / "datasets" / "coco_lt_counts.csv",
}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, **tolerance("simcal"))


def dual_head(counts: list[int], threshold: int | None) -> DualHead:
    return DualHead(2, statistics_of(counts), pooled_features=3, instance_threshold=threshold)


def mean_of_heads(logits: list[Any]) -> Tensor:
    """Logits (N, C + 1), background last, of one matrix or of the mean over a cascade's heads."""
    nested = isinstance(logits[0][0], list)
    return torch.stack([background_last(head) for head in (logits if nested else [logits])]).mean(dim=0)


@pytest.mark.parametrize("case", golden_cases("simcal", "dual_head_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    original = inputs.get("logits_original") or inputs["logits_original_per_stage"]
    calibrated = inputs.get("logits_calibrated") or inputs["logits_calibrated_per_stage"]
    classifier = dual_head(inputs["instance_counts"], case["hyperparameters"]["threshold"])
    scores = classifier.scores(torch.cat([mean_of_heads(original), mean_of_heads(calibrated)], dim=1))
    close(scores, background_last(case["expected"]["scores"]))
    replaced = [label + 1 for label in classifier.replaced.nonzero().flatten().tolist()]
    assert replaced == case["expected"]["replaced_columns"]


@pytest.mark.parametrize("case", golden_cases("simcal", "dual_head_scores_real"))
def test_scores_at_real_size(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    counts = ClassStatistics.read(COUNTS[inputs["count_source"]]).instance_counts.tolist()
    logits = [
        background_last(values_of_formula(formula, inputs["num_proposals"], len(counts) + 1).tolist())
        for formula in inputs["logits_formula"]
    ]
    classifier = dual_head(counts, case["hyperparameters"]["threshold"])
    scores = classifier.scores(torch.cat(logits, dim=1)).roll(1, dims=1)
    assert int(classifier.replaced.sum()) == expected["num_replaced"]
    close(
        scores[:, expected["score_columns"]], torch.tensor(expected["scores_at_columns"], dtype=torch.float64)
    )
    close(scores.sum(dim=1), torch.tensor(expected["row_sums"], dtype=torch.float64))
    assert scores.argmax(dim=1).tolist() == expected["argmax"]


@pytest.mark.parametrize("case", golden_cases("simcal", "bilevel_selection"))
def test_selected_rois_equal_the_original(case: dict[str, Any]) -> None:
    _check_selection(case, "selected_roi_ids", "targets")


@pytest.mark.parametrize("case", golden_cases("simcal", "bilevel_selection", statuses=("upstream_bug",)))
def test_images_keep_their_class_where_the_release_mixes_them_up(case: dict[str, Any]) -> None:
    _check_selection(case, "intended_selected_roi_ids", "intended_targets")


def _check_selection(case: dict[str, Any], ids: str, targets: str) -> None:
    inputs = case["inputs"]
    per_image = inputs["roi_labels_per_image"]
    num_classes = max(label for labels in (*per_image, inputs["sampled_class_per_image"]) for label in labels)
    labels = labels_from_released([label for image in per_image for label in image], num_classes)
    numbers = torch.tensor([number for number, image in enumerate(per_image) for _ in image])
    drawn = labels_from_released(inputs["sampled_class_per_image"], num_classes)
    order = torch.tensor(inputs["background_permutation"])
    chosen = first_of_background(labels, numbers, drawn, num_classes, order)
    assert chosen.tolist() == case["expected"][ids]
    assert labels[chosen].equal(labels_from_released(case["expected"][targets], num_classes))


def test_background_is_drawn_by_chance_and_as_much_as_foreground() -> None:
    labels, numbers, drawn = torch.tensor([0, 0, 3, 1, *[3] * 40]), torch.zeros(44).long(), torch.tensor([0])
    seen = set()
    for _ in range(50):
        chosen = balanced_rois(labels, numbers, drawn, num_classes=3)
        assert (labels[chosen] == 3).sum() == 2
        assert (labels[chosen] == 0).sum() == 2
        seen |= set(chosen.tolist())
    assert 3 not in seen  # another category than the drawn one
    assert len(seen) > 20


@pytest.mark.parametrize("case", golden_cases("simcal", "calibration_loss"))
def test_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    calibrated = background_last(inputs["logits"]).requires_grad_()
    classes = calibrated.shape[1] - 1
    labels = labels_from_released(inputs["targets"], classes)
    classifier = dual_head([9] * classes, 300)
    loss = classifier.loss(torch.cat([torch.randn_like(calibrated), calibrated], dim=1), labels)["loss_cls"]
    loss.backward()
    close(loss, torch.tensor(case["expected"]["loss"], dtype=torch.float64))
    (name,) = [key for key in case["expected"] if "grad" in key]
    assert calibrated.grad is not None
    close(calibrated.grad, background_last(case["expected"][name]))


@pytest.mark.parametrize("case", golden_cases("simcal", "calibration_head_forward"))
def test_the_head_equals_the_original(case: dict[str, Any]) -> None:
    pooled = torch.tensor(case["inputs"]["roi_features"], dtype=torch.float64).flatten(start_dim=1)
    parameters = {k: torch.tensor(v, dtype=torch.float64) for k, v in case["inputs"]["parameters"].items()}
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in parameters))
    outputs = len(parameters[f"{names[-1]}.weight"])
    head = CalibrationHead(
        pooled.shape[1], case["hyperparameters"]["hidden"], outputs, int(case["hyperparameters"]["head"][0])
    ).double()
    for layer, name in zip(head.linears, names, strict=True):
        layer.load_state_dict({key: parameters[f"{name}.{key}"] for key in ("weight", "bias")})
    close(head(pooled), torch.tensor(case["expected"]["logits"], dtype=torch.float64))


@pytest.mark.parametrize("case", golden_cases("simcal", "calibration_schedule"))
def test_the_schedule_is_the_released_one(case: dict[str, Any]) -> None:
    _, method, _, _ = Catalog().method("simcal", "test")
    schedule = method.stages[-1].schedule
    assert schedule is not None
    assert (schedule.momentum, schedule.weight_decay, schedule.warmup_iterations) == (0, 0, 0)
    planned = plan(schedule, num_images=1)
    steps = case["hyperparameters"]["steps_per_epoch"]
    rates = [planned.learning_rate((epoch - 1) * steps) for epoch in case["inputs"]["epochs"]]
    np.testing.assert_allclose(rates, case["expected"]["lr"], rtol=1e-12)


@pytest.mark.parametrize("case", golden_cases("simcal", "class_balanced_image_sampling"))
def test_classes_are_drawn_with_the_released_probabilities(case: dict[str, Any]) -> None:
    counts, settings = np.array(case["inputs"]["instance_counts"]), case["hyperparameters"]
    found = draw_probabilities(counts, settings["tau"], settings["count_cap"])
    eligible = np.array(case["expected"]["eligible_classes"]) - 1
    np.testing.assert_allclose(found[eligible], case["expected"]["class_probability"], rtol=1e-12)
    assert not np.delete(found, eligible).any()


def test_training_moves_the_calibrated_head_only() -> None:
    classifier = dual_head([5, 900], 300)
    optimizer = torch.optim.SGD([p for p in classifier.parameters() if p.requires_grad], lr=1.0)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    loss = classifier.loss(classifier(torch.randn(6, 5)), torch.tensor([0, 1, 2, 2, 0, 1]))["loss_cls"]
    loss.backward()
    optimizer.step()
    moved = {name for name, value in classifier.state_dict().items() if not value.equal(before[name])}
    assert moved
    assert all(name.startswith("calibrated.") for name in moved)


@pytest.mark.parametrize("layers", [2, 3])
def test_the_box_head_is_copied_where_it_fits(layers: int) -> None:
    torch.manual_seed(0)
    settings = DetectorSettings(
        architecture="faster_rcnn", backbone="resnet18", fpn_channels=2, box_head_width=8
    )
    classifier = DualHead(8, statistics_of([5, 900]), pooled_features=98, layers=layers)
    detector = TorchvisionDetector(settings, [classifier], TestSettings())
    with torch.no_grad():
        if layers == 2:
            with pytest.raises(BenchmarkError, match="3fc_rand"):
                copy_box_head(detector, statistics_of([5, 900]))
            return
        copy_box_head(detector, statistics_of([5, 900]))
    pooled = torch.randn(4, 98)
    logits = classifier.linear(detector.roi_heads.box_head(pooled))
    close(classifier.calibrated(pooled), logits)


def test_the_threshold_changes_whole_columns_and_never_the_background() -> None:
    logits = torch.randn(4, 8)
    strict = dual_head([299, 300, 5000], 300).scores(logits)
    other = dual_head([299, 300, 5000], 301).scores(logits)
    assert (strict == other).all(dim=0).tolist() == [True, False, True, True]
    torch.testing.assert_close(strict[:, 3], logits[:, :4].softmax(dim=1)[:, 3])


def test_the_calibrated_head_alone_is_a_distribution() -> None:
    logits = torch.randn(4, 8)
    torch.testing.assert_close(dual_head([1, 2, 9], None).scores(logits), logits[:, 4:].softmax(dim=1))


def test_categories_come_alike_and_each_image_contains_its_own() -> None:
    labels = [[0], [0, 0], [0, 2], [0, 4, 2], [0]]
    images = LabelledImages(labels, 5)
    probabilities = np.array([1, 0, 1, 0, 2]) / 4  # categories 1 and 3 are in no image
    stream = CategoryFirstStream(images, probabilities, seed=0)
    drawn = [(stream.label(position), stream[position]) for position in range(20000)]
    assert all(label in labels[image] for label, image in drawn)
    counts = np.bincount([label for label, _ in drawn]) / len(drawn)
    assert counts == pytest.approx(probabilities, abs=0.02)
    images = np.bincount([image for label, image in drawn if label == 0]) * 5 / 5000
    assert images == pytest.approx(1, abs=0.15)


@given(start=st.integers(0, 300), seed=st.integers(0, 100))
def test_a_category_can_be_asked_for_at_any_position(start: int, seed: int) -> None:
    images, probabilities = LabelledImages([[0], [1], [0, 1], [1, 2]], 3), np.ones(3) / 3
    whole = CategoryFirstStream(images, probabilities, seed)
    expected = [(whole.label(position), whole[position]) for position in range(start + 5)]
    other = CategoryFirstStream(images, probabilities, seed)
    assert (other.label(start), other[start]) == expected[start]
    assert (other.label(0), other[0]) == expected[0]
