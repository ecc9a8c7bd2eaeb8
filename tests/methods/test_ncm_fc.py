"""Scores equal the released nearest-class-mean head; categories without boxes stay harmless."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from released_layout import background_last

from methods.ncm_fc.classifier import BoxHeadMeans, PooledMeans, cosines_to_means, ncm_scores


@pytest.mark.parametrize("case", golden_cases("bags", "ncm_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    means = torch.tensor(inputs["class_means_including_row0"], dtype=torch.float64)[1:]
    cosines = cosines_to_means(torch.tensor(inputs["features"], dtype=torch.float64), means)
    scores = ncm_scores(background_last(inputs["logits_original"]), cosines)
    torch.testing.assert_close(scores, background_last(case["expected"]["scores"]), **tolerance("bags"))


def test_a_category_without_a_mean_is_the_least_similar() -> None:
    classifier = BoxHeadMeans(3, statistics_of([4, 0, 5]))
    classifier.means[0] = torch.tensor([1.0, 0.0, 0.0])
    classifier.means[2] = torch.tensor([0.0, -1.0, 0.0])
    scores = classifier.scores(classifier(torch.tensor([[1.0, 0.5, 0.0]])))
    assert scores.argsort(dim=1)[:, :3].flatten().tolist()[:2] == [1, 2]
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(1))


def test_the_pooled_features_alone_are_compared() -> None:
    classifier = PooledMeans(2, statistics_of([4, 5]), pooled_features=3)
    classifier.means[:, :2] = torch.eye(2)
    box, pooled = torch.randn(4, 2), torch.tensor([[5.0, 1.0, 0.0]]).repeat(4, 1)
    logits = classifier(torch.cat([box, pooled], dim=1))
    torch.testing.assert_close(logits[:, :3], classifier.linear(box.relu()))
    torch.testing.assert_close(logits[:, 3:], torch.tensor([[5.0, 1.0]]).repeat(4, 1) / 26**0.5)
