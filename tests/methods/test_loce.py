"""Loss, gradient and mean scores equal the released LOCE, given the entries that its objects make."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import labels_of, matrix
from torch import Tensor

from methods.loce.classifier import Equilibrium
from methods.loce.memory import FeatureMemory, drawn_categories, images_of_first_pass, jittered_boxes

CLOSE = tolerance("loce")


def _one_worker(value: Tensor) -> Tensor:
    return value


def _classifier(categories: int, **options: float) -> Equilibrium:
    return Equilibrium(4, statistics_of([5] * categories), **options).double()


def _of(case: dict[str, Any]) -> Equilibrium:
    """The classifier of a case, its mean scores at the start of the case."""
    settings = case["hyperparameters"]
    classifier = _classifier(
        case["inputs"]["num_classes"],
        alpha=settings["alpha"],
        background_score=settings["background_score"],
    )
    classifier.mean_score.fill_(settings["initial"])
    if case["inputs"].get("initial_mean_score") is not None:
        classifier.mean_score.copy_(matrix(case["inputs"]["initial_mean_score"]))
    return classifier


def _released_entries(call: dict[str, Any], rois_per_image: int) -> list[tuple[int, float]]:
    """Label and mean score of every object with RoIs, and of every category among the rows from memory."""
    rois = [rois_per_image] * len(call["images"])
    return sorted((label, rows.mean().item()) for label, rows in _groups(call, rois))


def _groups(call: dict[str, Any], rois: list[int]) -> Iterator[tuple[int, Tensor]]:
    scores = matrix(call["logits"]).softmax(dim=1)
    for image, first in zip(call["images"], [0, *accumulate(rois)], strict=False):
        assigned = torch.tensor(image["assigned"], dtype=torch.int64)
        own = scores[first:][: len(assigned)]
        for found in assigned.unique().tolist():
            label = image["gt_labels"][found]
            yield label, own[assigned == found, label]
    memory = torch.tensor(call.get("memory_labels", []), dtype=torch.int64)
    for label in memory.unique().tolist():
        yield label, scores[len(scores) - len(memory) :][memory == label, label]


def _summed(entries: list[tuple[int, float]], width: int) -> Tensor:
    """Their sum and number for each label, as the classifier has them."""
    summed = torch.zeros(2, width, dtype=torch.float64)
    for label, score in entries:
        summed[:, label] += matrix([score, 1.0])
    return summed


@pytest.mark.parametrize("case", golden_cases("loce", "equilibrium_loss"))
def test_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    """Weights of a case are applied here; all are 1 in the release's configurations."""
    logits, labels = matrix(case["inputs"]["logits"]).requires_grad_(), labels_of(case["inputs"])
    weights = torch.ones(len(labels)).double()
    if case["inputs"]["label_weights"] is not None:
        weights = matrix(case["inputs"]["label_weights"])
    mean_score = matrix(case["inputs"]["mean_score"])
    losses = _classifier(logits.shape[1] - 1).row_losses(logits, labels, mean_score)
    loss = (weights * losses).sum() / (weights > 0).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss.item(), float(case["expected"]["loss"]), **CLOSE)
    torch.testing.assert_close(gradient, matrix(case["expected"]["grad_logits"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("loce", "mean_score_update"))
def test_entries_move_the_mean_scores_as_in_the_original(case: dict[str, Any]) -> None:
    classifier = _of(case)
    for call, expected in zip(case["inputs"]["iterations"], case["expected"]["iterations"], strict=True):
        entries = _released_entries(call, case["inputs"]["rois_per_image"])
        assert [label for label, _ in entries] == [label for label, _ in expected["entries"]]
        torch.testing.assert_close(
            matrix([score for _, score in entries]),
            matrix([score for _, score in expected["entries"]]),
            **CLOSE,
        )
        _end_step(classifier, [entries])
        torch.testing.assert_close(classifier.mean_score, matrix(expected["mean_score"]), **CLOSE)


def _end_step(classifier: Equilibrium, workers: list[list[tuple[int, float]]]) -> None:
    for entries in workers:
        classifier.entries_of_step.add(_summed(entries, classifier.num_classes + 1))
    classifier.finish_step(_one_worker)


@pytest.mark.parametrize("case", golden_cases("loce", "mean_score_two_processes"))
def test_entries_of_two_workers_are_put_together_as_those_of_two_processes(case: dict[str, Any]) -> None:
    classifier, size = _of(case), case["inputs"]["rois_per_image"]
    for call, expected in zip(case["inputs"]["iterations"], case["expected"]["iterations"], strict=True):
        _end_step(classifier, [_released_entries(part, size) for part in call["per_process"]])
        torch.testing.assert_close(classifier.mean_score, matrix(expected["mean_score"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("loce", "mean_score_fewer_rois"))
def test_rows_of_an_image_with_fewer_rois_are_its_own(case: dict[str, Any]) -> None:
    """The intended behaviour: the release takes the rows at a multiple of the usual number of RoIs."""
    classifier = _of(case)
    entries = sorted(
        (label, rows.mean().item())
        for label, rows in _groups(case["inputs"], case["inputs"]["rois_of_images"])
    )
    torch.testing.assert_close(matrix(entries), matrix(case["expected"]["entries"]), **CLOSE)
    _end_step(classifier, [entries])
    torch.testing.assert_close(classifier.mean_score, matrix(case["expected"]["mean_score"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("loce", "loce_iterations"))
def test_every_loss_uses_the_mean_scores_after_its_own_entries(case: dict[str, Any]) -> None:
    classifier, size = _of(case), case["inputs"]["rois_per_image"]
    for call, expected in zip(case["inputs"]["iterations"], case["expected"]["iterations"], strict=True):
        logits, entries = matrix(call["logits"]).requires_grad_(), _released_entries(call, size)
        mean_score = classifier.updated(_summed(entries, classifier.num_classes + 1))
        loss = classifier.row_losses(logits, labels_of(call), mean_score).mean()
        (gradient,) = torch.autograd.grad(loss, logits)
        torch.testing.assert_close(loss.item(), float(expected["loss"]), **CLOSE)
        torch.testing.assert_close(gradient, matrix(expected["grad_logits"]), **CLOSE)
        _end_step(classifier, [entries])
        torch.testing.assert_close(classifier.mean_score, matrix(expected["mean_score"]), **CLOSE)
        torch.testing.assert_close(classifier.mean_score, mean_score)


def _batch(seed: int, labels: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(labels), 5, dtype=torch.float64, generator=generator), torch.tensor(labels)


def test_of_single_objects_the_entries_are_those_of_the_original() -> None:
    """With one object per category in a call, labels and objects give the same entries."""
    classifier = _classifier(4)
    logits, labels = _batch(0, [1, 1, 1, 3, 4, 4])
    call = {"logits": logits.tolist(), "memory_labels": []}
    call["images"] = [{"gt_labels": [1, 3], "assigned": [0, 0, 0, 1]}]
    released = _summed(_released_entries(call, 6), 5)
    found = classifier.entries(logits, labels)
    torch.testing.assert_close(found[:, :4], released[:, :4])
    classifier.loss(logits, labels)
    classifier.finish_step(_one_worker)
    before = torch.full((5,), 0.01).double()
    moved = 0.9 * before + 0.1 * released[0]
    torch.testing.assert_close(classifier.mean_score, torch.where(released[1] > 0, moved, before))


def test_with_equal_mean_scores_it_is_cross_entropy() -> None:
    classifier = _classifier(4)
    logits, labels = _batch(1, [4] * 6)
    torch.testing.assert_close(classifier.loss(logits, labels)["loss_cls"], F.cross_entropy(logits, labels))


def test_a_category_that_scores_low_costs_more_and_is_pushed_up_more() -> None:
    classifier = _classifier(2)
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    low, high = classifier.row_losses(logits, torch.tensor([0, 1]), torch.tensor([0.01, 0.5, 0.01]).double())
    assert low > high
    (gradient,) = torch.autograd.grad(low + high, logits)
    assert gradient[0, 0] < gradient[1, 1] < 0


def test_the_mean_score_comes_to_what_a_category_scores() -> None:
    """Background and categories that do not occur keep their own."""
    classifier = _classifier(4)
    logits, labels = _batch(2, [0, 0, 2, 4])
    for _ in range(300):
        classifier.loss(logits, labels)
        classifier.finish_step(_one_worker)
    scores = logits.softmax(dim=1)
    expected = torch.stack([scores[:2, 0].mean(), torch.tensor(0.01), scores[2, 2]])
    torch.testing.assert_close(classifier.mean_score[:3], expected.double())
    assert classifier.mean_score[3:].tolist() == pytest.approx([0.01, 0.01])


@pytest.mark.parametrize("case", golden_cases("loce", "memory_queue"))
def test_the_memory_keeps_what_the_original_keeps(case: dict[str, Any]) -> None:
    memory = FeatureMemory(case["inputs"]["num_classes"], case["inputs"]["queue_size"], [])
    for call, expected in zip(case["inputs"]["calls"], case["expected"]["calls"], strict=True):
        memory.write(labels_of(call), torch.tensor(call["ids"]))
        assert memory.features.tolist() == expected["ids"]
        assert memory.filled.tolist() == expected["filled"]
        assert memory.pointers.tolist() == expected["pointers"]


@pytest.mark.parametrize("case", golden_cases("loce", "memory_sample"))
def test_the_memory_gives_what_the_original_gives(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    memory = FeatureMemory(inputs["num_classes"], inputs["queue_size"], [])
    memory.features, memory.filled = torch.tensor(inputs["ids"]), torch.tensor(inputs["filled"])
    draws = iter(inputs["drawn_slots"])
    features, labels = memory.read(
        torch.tensor(inputs["drawn_categories"]), lambda _: torch.tensor(next(draws))
    )
    assert features.tolist() == case["expected"]["ids"]
    assert labels.tolist() == case["expected"]["labels"]
    assert next(draws, None) is None


@pytest.mark.parametrize("case", golden_cases("loce", "class_draw"))
def test_categories_that_score_low_are_drawn_as_in_the_original(case: dict[str, Any]) -> None:
    *foreground, _ = case["inputs"]["mean_score"]
    found = drawn_categories(matrix(foreground), matrix(case["inputs"]["uniform"]))
    assert found.tolist() == case["expected"]["categories"]


@pytest.mark.parametrize("case", golden_cases("loce", "jittered_boxes"))
def test_boxes_are_jittered_as_in_the_original(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    boxes, uniform = matrix(inputs["boxes"]), matrix(inputs["uniform"])
    found = jittered_boxes(boxes, uniform, inputs["height"], inputs["width"])
    torch.testing.assert_close(found, matrix(case["expected"]["boxes"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("loce", "balanced_image_order"))
def test_the_first_pass_shows_the_images_of_the_original(case: dict[str, Any]) -> None:
    found = images_of_first_pass(case["inputs"]["categories_of_images"], **case["hyperparameters"])
    assert found == case["expected"]["images_of_processes"]


def test_a_memory_without_features_gives_none() -> None:
    features, labels = FeatureMemory(3, 2, (4,)).read(torch.tensor([0, 2]), torch.arange)
    assert (features.shape, labels.shape) == ((0, 4), (0,))
