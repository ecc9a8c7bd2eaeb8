"""Comparison of a detector with the same model of its framework."""

import torch
from torch import Tensor

from benchmark.detectors.two_stage import TwoStageDetector


@torch.no_grad()
def make_different(model: TwoStageDetector) -> None:
    """Draw weights that are not the initial ones: boxes and masks then differ between RoIs."""
    for layer in (*model.mask_predictors, *model.box_regressors):
        torch.nn.init.normal_(layer.weight, std=0.05)  # type: ignore[arg-type]


def move_in(model: TwoStageDetector, home: torch.nn.Module, classifier: str) -> None:
    """Load a detector's weights into its framework's model.

    ``classifier`` is the name of the last layer, with {} for the head of a cascade.
    """
    heads = len(model.classifiers)
    names = {
        f"classifiers.{head}.linear": classifier.format(f".{head}" if heads > 1 else "")
        for head in range(heads)
    }
    state = {}
    for name, value in model.state_dict().items():
        prefix, _, end = name.rpartition(".")
        state[f"{names.get(prefix, prefix)}.{end}"] = value
    home.load_state_dict(state)


def gradients(module: torch.nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of the sum of losses by the parameter's name."""
    module.zero_grad()
    torch.stack([value.sum() for value in losses.values()]).sum().backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def check_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], least: int) -> None:
    """Compare gradients of parameters with the same name, at least ``least`` of them, up to float32."""
    same = ours.keys() & theirs.keys()
    assert len(same) >= least
    for name in same:
        scale = theirs[name].abs().max().clamp(min=1e-6)
        torch.testing.assert_close(ours[name] / scale, theirs[name] / scale, rtol=0, atol=1e-4)


def check_detections(
    ours: tuple[Tensor, Tensor, Tensor], theirs: tuple[Tensor, Tensor, Tensor], least: int
) -> Tensor:
    """Compare boxes, labels and scores; detections with nearly equal scores may be in another order.

    Returns the position of each of ours among theirs.
    """
    (boxes, labels, scores), (other_boxes, other_labels, other_scores) = ours, theirs
    assert len(labels) == len(other_labels) >= least
    apart = (boxes[:, None] - other_boxes).abs().amax(dim=2) + 1e4 * (labels[:, None] != other_labels)
    nearest = apart.argmin(dim=1)
    assert sorted(nearest.tolist()) == list(range(len(nearest)))
    assert labels.equal(other_labels[nearest])
    torch.testing.assert_close(boxes, other_boxes[nearest], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(scores, other_scores[nearest], rtol=1e-4, atol=1e-5)
    return nearest
