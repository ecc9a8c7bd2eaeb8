"""Boxes are assigned to objects by the rules of the releases, and sampled with the image's own generator."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases
from tiny_detectors import BACKENDS
from torch import Tensor

from benchmark.detectors.matching import MatchingRule, draw, generator_of
from benchmark.images import Target


def problem(seed: int) -> tuple[Tensor, Tensor]:
    """Objects, and boxes with all kinds of overlaps on a coarse grid, so that some overlaps are equal."""
    torch.manual_seed(seed)
    corners = torch.randint(0, 12, (400, 2)).float() * 4
    boxes = torch.cat([corners, corners + torch.randint(1, 8, (400, 2)).float() * 4], dim=1)
    return boxes, boxes[torch.randperm(400)[:6]] + torch.randint(-1, 2, (6, 4)).float()


@pytest.mark.skipif("mmdet" not in BACKENDS, reason="back end 'mmdet' is not installed")
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("foreground", "background", "floor"),
    [(0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.6, 0.6, None), (0.7, (0.1, 0.3), 0.0)],
)
def test_matching_of_mmdetection(seed: int, foreground: float, background: Any, floor: float | None) -> None:
    from benchmark.detectors.mmcv_ops import provide_operators

    provide_operators()
    from mmdet.models.task_modules.assigners import MaxIoUAssigner
    from mmengine.structures import InstanceData

    boxes, truth = problem(seed)
    assigner = MaxIoUAssigner(
        foreground, background, min_pos_iou=floor or 0.0, match_low_quality=floor is not None
    )
    labels = torch.arange(len(truth))
    found = assigner.assign(InstanceData(priors=boxes), InstanceData(bboxes=truth, labels=labels)).gt_inds
    nearest, below = background if isinstance(background, tuple) else (0.0, background)
    rule = MatchingRule(foreground, below, nearest, low_quality=floor, own_targets=True)
    matches, kinds = rule.match(boxes, truth)
    assert kinds.equal(found.clamp(-1, 1))
    assert matches[kinds == 1].equal(found[kinds == 1] - 1)


@pytest.mark.skipif("detectron2" not in BACKENDS, reason="back end 'detectron2' is not installed")
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("anchors", [True, False])
def test_matching_of_detectron2(seed: int, anchors: bool) -> None:
    from detectron2.modeling.matcher import Matcher
    from detectron2.structures import Boxes, pairwise_iou

    boxes, truth = problem(seed)
    if anchors:
        theirs = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)
        rule = MatchingRule(0.7, 0.3, low_quality=0.0)
    else:
        theirs, rule = Matcher([0.5], [0, 1]), MatchingRule(0.5, 0.5)
    expected, labels = theirs(pairwise_iou(Boxes(truth), Boxes(boxes)))
    matches, kinds = rule.match(boxes, truth)
    assert kinds.equal(labels.long())
    assert matches[kinds == 1].equal(expected[kinds == 1])


def test_an_object_that_nothing_overlaps_makes_nothing_foreground() -> None:
    """detectron2's matcher would make everything foreground."""
    rule = MatchingRule(0.7, 0.3, low_quality=0.0)
    _, kinds = rule.match(torch.tensor([[0.0, 0, 5, 5], [9, 9, 12, 12]]), torch.tensor([[50.0, 50, 60, 60]]))
    assert kinds.tolist() == [0, 0]
    matches, kinds = rule.match(torch.rand(3, 4), torch.zeros(0, 4))
    assert (matches.tolist(), kinds.tolist()) == ([0, 0, 0], [0, 0, 0])


@pytest.mark.parametrize("case", golden_cases("simcal", "proposal_sampler_low_threshold"))
def test_background_below_the_least_overlap_is_not_sampled(case: dict[str, Any]) -> None:
    """The boxes have the overlaps of the case; ground truth is first, as in the release."""
    inputs, expected = case["inputs"], case["expected"]
    truth = torch.tensor([[500.0 * n, 0, 500 * n + 100, 100] for n in range(len(inputs["gt_labels"]))])
    least = case["hyperparameters"]["negative_min_overlap"]
    assigned = [max(number, 1) - 1 for number in inputs["assigned_gt"]]
    proposals = torch.stack(
        [
            truth[gt] * torch.tensor([1, 1, 1, overlap])
            for gt, overlap in zip(assigned, inputs["max_overlap"], strict=True)
        ]
    )
    matches, kinds = MatchingRule(0.5, 0.5, nearest=least).match(torch.cat([truth, proposals]), truth)
    positive, negative = (kinds == 1).nonzero().flatten(), (kinds == 0).nonzero().flatten()
    assert positive.tolist() == expected["positive_indices_gt_first"]
    assert negative.tolist() == expected["negative_indices_gt_first"]
    labels = torch.tensor(inputs["gt_labels"])[matches[positive]]
    assert labels.tolist() == expected["positive_labels"]


def test_a_draw_has_its_share_of_foreground() -> None:
    kinds = torch.tensor([1] * 40 + [0] * 100 + [-1] * 10)
    drawn = draw(kinds, 32, 0.25, torch.Generator().manual_seed(0))
    assert kinds[drawn].bincount().tolist() == [24, 8]
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    few = draw(torch.tensor([1, 1, 0, -1]), 32, 0.25, None)
    assert few.tolist() == [0, 1, 2]
    assert len(draw(torch.tensor([-1, -1]), 32, 0.5, None)) == 0


@pytest.mark.parametrize("count", [20, 3000])
def test_every_box_is_drawn_alike(count: int) -> None:
    """Even if there are so many that only some random numbers are drawn."""
    kinds = torch.zeros(count, dtype=torch.int64)
    generator = torch.Generator().manual_seed(1)
    counts = torch.zeros(count)
    for _ in range(400):
        drawn = draw(kinds, 16, 0.5, generator)
        assert len(set(drawn.tolist())) == 16
        counts[drawn] += 1
    expected = 400 * 16 / count
    assert counts.std().item() < 1.3 * expected**0.5
    assert counts[: count // 2].sum().item() == pytest.approx(400 * 8, rel=0.05)


def test_draws_belong_to_the_image_and_the_purpose() -> None:
    kinds = torch.zeros(5000, dtype=torch.int64)
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None, seed=4)

    def drawn(seed: int | None, purpose: str) -> Tensor:
        target.seed = seed
        return draw(kinds, 16, 0.5, generator_of(target, purpose))

    first = drawn(4, "anchors")
    torch.rand(3)
    assert drawn(4, "anchors").equal(first)
    assert not drawn(4, "RoIs 0").equal(first)
    assert not drawn(5, "anchors").equal(first)
    torch.manual_seed(0)
    unseeded = drawn(None, "anchors")
    assert not drawn(None, "anchors").equal(unseeded)
