"""Weights, loss, gradient and scores equal the released suppression loss, given the sampled rows."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import check_loss
from released_layout import background_last, labels_from_released
from torch import Tensor

from benchmark.errors import BenchmarkError
from methods.acsl.classifier import AdaptiveSuppression, draw_counts

CLOSE = tolerance("acsl")


def classifier_with(letters: list[str], **options: Any) -> AdaptiveSuppression:
    statistics = replace(statistics_of([5] * len(letters)), frequencies=tuple(letters))
    return AdaptiveSuppression(4, statistics, **options)


@pytest.mark.parametrize("case", golden_cases("acsl", "acsl_loss"))
def test_weights_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    """``loss_weight`` is not applied, as in the original."""
    inputs, expected = case["inputs"], case["expected"]
    threshold = case["hyperparameters"]["score_threshold"]
    classifier = classifier_with(inputs["frequencies"], score_threshold=threshold)
    width = classifier.num_classes + 1
    logits = background_last(inputs["logits"], width).requires_grad_()
    labels = labels_from_released(inputs["labels"], classifier.num_classes)
    rows = [torch.tensor(inputs[name], dtype=torch.int64) for name in ("rare_rows", "common_rows")]
    weights = classifier.weights(logits.detach(), labels, *rows)
    assert weights.equal(background_last(expected["weights"], width))
    gradient = background_last(expected["grad_logits"], width).tolist()
    golden = {"loss": expected["loss"], "grad_logits": gradient}
    check_loss({"loss": classifier.suppression_loss(logits, labels, *rows)}, logits, golden, CLOSE)
    assert [len(row) for row in rows] == list(draw_counts(int((labels == classifier.num_classes).sum())))
    assert [len(row) for row in rows] == [expected["rare_draws"], expected["common_draws"]]


@pytest.mark.parametrize("case", golden_cases("acsl", "acsl_draw_counts"))
def test_as_many_background_rows_are_drawn_as_in_the_original(case: dict[str, Any]) -> None:
    found = [list(draw_counts(rows)) for rows in case["inputs"]["background_rows"]]
    assert found == case["expected"]["draws"]


@pytest.mark.parametrize("case", golden_cases("acsl", "acsl_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    logits = background_last(case["inputs"]["logits"])
    scores = classifier_with(["f"] * (logits.shape[1] - 1)).scores(logits)
    torch.testing.assert_close(scores, background_last(case["expected"]["scores"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("acsl", "acsl_scores_stages"))
def test_both_readings_of_a_cascade_equal_the_original(case: dict[str, Any]) -> None:
    heads = [background_last(head) for head in case["inputs"]["logits_per_stage"]]
    for link, key in (("sigmoid", "scores"), ("softmax", "released_scores")):
        classifier = classifier_with(["f"] * (heads[0].shape[1] - 1), cascade_link=link)
        scores = classifier.detection_scores(heads, torch.rand(len(heads[0])))
        torch.testing.assert_close(scores, background_last(case["expected"][key]), **CLOSE)
        alone = classifier.detection_scores(heads[:1], torch.rand(len(heads[0])))
        assert alone.equal(heads[0].sigmoid())


def test_rows_of_background_are_drawn_apart_and_anew() -> None:
    """One rare, one common, one frequent category; of 2000 background rows, 20 and 200 are sampled."""
    classifier = classifier_with(["r", "c", "f"])
    seen: list[Tensor] = []

    def remember(logits: Tensor, labels: Tensor, *rows: Tensor) -> Tensor:
        seen.extend(rows)
        return logits.sum()

    classifier.suppression_loss = remember  # type: ignore[method-assign]
    labels = torch.tensor([0, 1, 2] + [3] * 2000)
    for _ in range(2):
        classifier.loss(torch.zeros(len(labels), 4), labels)
    assert [len(rows) for rows in seen] == [20, 200, 20, 200]
    assert all(len(rows.unique()) == len(rows) and (labels[rows] == 3).all() for rows in seen)
    assert len(set(seen[0].tolist()) & set(seen[1].tolist())) < 20
    assert not seen[1].equal(seen[3])


def test_an_unknown_link_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="sigmoid or softmax"):
        classifier_with(["r"], cascade_link="tanh")
