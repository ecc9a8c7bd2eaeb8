"""Balanced Group Softmax equals the released code; the sampling of "others" keeps its invariants."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance, values_of_formula
from helpers import statistics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.bags.classifier import GroupSoftmax, draw_others, group_softmax_losses

CLOSE = tolerance("bags")


def _classifier(case: dict[str, Any]) -> GroupSoftmax:
    statistics = statistics_of(case["inputs"]["instance_counts"])
    return GroupSoftmax(4, statistics, edges=case["hyperparameters"]["group_edges"])


def _logits(case: dict[str, Any], rows: int, classifier: GroupSoftmax) -> Tensor:
    width = classifier.linear.out_features
    if "logits" in case["inputs"]:
        return torch.tensor(case["inputs"]["logits"], dtype=torch.float64).reshape(rows, width)
    return torch.from_numpy(values_of_formula(case["inputs"]["logits_formula"], rows, width))


def _ours(labels: list[int], num_classes: int) -> Tensor:
    """Labels of the release (0 is background) in our order (C is background)."""
    label = torch.tensor(labels, dtype=torch.int64)
    return torch.where(label == 0, num_classes, label - 1)


@pytest.mark.parametrize("case", golden_cases("bags", "group_softmax_loss"))
def test_losses_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    expected = case["expected"]
    classifier = _classifier(case)
    labels = _ours(case["inputs"]["labels"], classifier.num_classes)
    logits = _logits(case, len(labels), classifier).requires_grad_()
    targets = classifier.targets[:, labels]
    assert targets.tolist() == expected["bin_labels"]
    weights = torch.zeros_like(targets, dtype=torch.bool)
    for weight, selected in zip(weights, case["inputs"]["selected_proposals_per_group"], strict=True):
        weight[selected] = True
    losses = torch.stack(group_softmax_losses(logits.split(classifier.lengths, dim=1), targets, weights))
    torch.testing.assert_close(losses.tolist(), expected["loss_per_bin"], **CLOSE)
    losses.sum().backward()
    torch.testing.assert_close(losses.sum().item(), expected["loss_cls_total"], **CLOSE)
    assert logits.grad is not None
    if "grad_logits_of_total" in expected:
        gradient = torch.tensor(expected["grad_logits_of_total"], dtype=torch.float64).reshape(logits.shape)
        torch.testing.assert_close(logits.grad, gradient, **CLOSE)
    else:
        torch.testing.assert_close(logits.grad.abs().sum().item(), expected["grad_abs_sum"], **CLOSE)
        torch.testing.assert_close(logits.grad.square().sum().item(), expected["grad_sq_sum"], **CLOSE)


@pytest.mark.parametrize("case", golden_cases("bags", "group_softmax_reweighted_loss"))
def test_reweighted_losses_equal_the_original(case: dict[str, Any]) -> None:
    expected, counts = case["expected"], case["inputs"]["instance_counts"]
    edges = case["hyperparameters"]["group_edges"]
    classifier = GroupSoftmax(4, statistics_of(counts), edges=edges, reweighted=True)
    labels = _ours(case["inputs"]["labels"], classifier.num_classes)
    logits = _logits(case, len(labels), classifier).requires_grad_()
    targets = classifier.targets[:, labels]
    drawn = torch.zeros(targets.shape)
    for row, selected in zip(drawn, case["inputs"]["selected_proposals_per_group"], strict=True):
        row[selected] = 1
    weights = drawn * classifier.label_weights[:, labels]  # float32, as in the original
    golden = torch.tensor(expected["bin_weights"], dtype=torch.float64)
    torch.testing.assert_close(weights.double(), golden, **tolerance("bags", "float32"))
    torch.testing.assert_close(weights.sum(dim=1).clamp(min=1).tolist(), expected["avg_factors"], **CLOSE)
    losses = torch.stack(group_softmax_losses(logits.split(classifier.lengths, dim=1), targets, weights))
    torch.testing.assert_close(losses.tolist(), expected["loss_per_bin"], **CLOSE)
    losses.sum().backward()
    torch.testing.assert_close(losses.sum().item(), expected["loss_cls_total"], **CLOSE)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.tolist(), expected["grad_logits_of_total"], **CLOSE)


@pytest.mark.parametrize("case", golden_cases("bags", "group_softmax_loss"))
def test_as_many_others_are_drawn_as_in_the_original(case: dict[str, Any]) -> None:
    classifier = _classifier(case)
    targets = classifier.targets[:, _ours(case["inputs"]["labels"], classifier.num_classes)]
    weights = draw_others(targets, case["hyperparameters"]["others_sample_ratio"])
    drawn = (weights & (targets == 0)).sum(dim=1)
    assert drawn[1:].tolist() == case["expected"]["num_others_selected"][1:]
    assert weights.sum(dim=1).clamp(min=1).tolist() == case["expected"]["avg_factors"]


@pytest.mark.parametrize("case", golden_cases("bags", "merge_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    classifier = _classifier(case)
    rows = len(case["inputs"]["logits"]) if "logits" in case["inputs"] else case["inputs"]["num_proposals"]
    scores = classifier.scores(_logits(case, rows, classifier)).roll(
        1, dims=1
    )  # background first, as released
    if "scores" in case["expected"]:
        torch.testing.assert_close(scores.tolist(), case["expected"]["scores"], **CLOSE)
    else:
        columns = case["expected"]["score_columns"]
        torch.testing.assert_close(
            scores[:, columns].tolist(), case["expected"]["scores_at_columns"], **CLOSE
        )
        assert scores.argmax(dim=1).tolist() == case["expected"]["argmax"]
    torch.testing.assert_close(scores.sum(dim=1).tolist(), case["expected"]["row_sums"], **CLOSE)


@pytest.mark.parametrize("case", golden_cases("bags", "merge_scores_stages"))
def test_cascade_scores_are_those_of_the_averaged_logits(case: dict[str, Any]) -> None:
    logits = torch.tensor(case["inputs"]["logits_per_stage"], dtype=torch.float64).mean(dim=0)
    scores = _classifier(case).scores(logits).roll(1, dims=1)
    torch.testing.assert_close(scores.tolist(), case["expected"]["scores"], **CLOSE)


@given(
    labels=st.lists(st.integers(0, 6), max_size=40),
    ratio=st.sampled_from([0.0, 0.5, 1.0, 8.0, 1000.0]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_invariants_of_any_batch(labels: list[int], ratio: float, seed: int) -> None:
    """Inactive groups get no gradient, bin 0 uses all rows, no category scores higher than the foreground."""
    torch.manual_seed(seed)
    classifier = GroupSoftmax(3, statistics_of([1, 5, 30, 80, 400, 5000]), others_ratio=ratio)
    y = torch.tensor(labels, dtype=torch.int64)
    logits = (torch.randn(len(y), classifier.linear.out_features) * 5).requires_grad_()
    targets = classifier.targets[:, y]
    weights = draw_others(targets, ratio)
    assert weights[0].all()
    for target, weight in zip(targets[1:], weights[1:], strict=True):
        foreground = int((target > 0).sum())
        others = int((target == 0).sum())
        assert weight[target > 0].all()
        assert int(weight[target == 0].sum()) == (min(int(ratio * foreground), others) if foreground else 0)
    losses = classifier.loss(logits, y)
    torch.stack(list(losses.values())).sum().backward()
    assert logits.grad is not None
    for target, gradient in zip(targets[1:], logits.grad.split(classifier.lengths, dim=1)[1:], strict=True):
        if not (target > 0).any():
            assert not gradient.any()
    scores = classifier.scores(logits)
    assert scores.shape == (len(y), 7)
    foreground_probability = logits[:, :2].softmax(dim=1)[:, 1:]
    assert bool((scores[:, :-1] <= foreground_probability + 1e-6).all())
