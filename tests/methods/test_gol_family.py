"""What holds for all methods and links of the GOL paper: edge cases, and training end to end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import statistics_of

from benchmark.classifiers import Classifier
from benchmark.detectors import checkpoints
from benchmark.recipes import load_object
from benchmark.recipes.experiments import find_run
from benchmark.recipes.plugins import find_plugins
from benchmark.steps import dataset_files
from benchmark.training import StageJob, run_stage

ROWS = [
    "sigmoid_with_bg",
    "sigmoid_with_bg+softmax_scores",
    "softmax+gol",
    "gumbel",
    "gumbel+class_relative",
    "gumbel+exact_gradient",
    "gol+synthetic",
    "droploss+synthetic",
    "eql+synthetic",
    "eql+gumbel_synthetic",
    "eql+gumbel_normed_all_rfs",
]
LABELS = {
    "mixed": [0, 1, 2, 3, 4, 4, 4, 2],
    "no foreground": [4, 4, 4],
    "no background": [0, 3, 1],
    "one foreground": [0],
    "one background": [4],
    "none": [],
}


def classifier_of(recipe: str) -> Classifier:
    """The recipe's classifier for 4 categories: without an image, infrequent, frequent, frequent."""
    name, _, variant_name = recipe.partition("+")
    plugin = find_plugins([])[name]
    method = plugin.method
    variant = method.variants.get(variant_name)
    options = method.options | (variant.options if variant else {})
    kind = load_object((variant and variant.classifier) or method.classifier, str(plugin.folder))
    classifier: Classifier = kind(8, statistics_of([0, 3, 200, 5000]), **options)
    return classifier


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("recipe", ROWS)
def test_losses_and_gradients_are_finite(recipe: str, labels: list[int]) -> None:
    torch.manual_seed(0)
    classifier = classifier_of(recipe)
    for scale in (0.0, 1.0, 1e4):
        features = (torch.randn(len(labels), 8) * scale).requires_grad_()
        losses = classifier.loss(classifier(features), torch.tensor(labels, dtype=torch.int64))
        assert all(name.startswith("loss_cls") and value.shape == () for name, value in losses.items())
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        assert total.isfinite()
        assert total.item() >= 0
        for tensor in (features, *classifier.parameters()):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("recipe", ROWS)
def test_scores_are_probabilities_with_background_last(recipe: str) -> None:
    torch.manual_seed(0)
    classifier = classifier_of(recipe)
    width = classifier(torch.zeros(1, 8)).shape[1]
    for scale in (1.0, 100.0):
        scores = classifier.scores(torch.randn(20, width) * scale)
        assert scores.shape == (20, 5)
        assert scores.isfinite().all()
        assert scores.min().item() >= 0
        assert scores.max().item() <= 1
    if width == 4:
        assert not classifier.scores(torch.randn(20, 4))[:, 4].any()
    else:
        sure = torch.zeros(1, width)
        sure[0, 4] = 5
        assert classifier.scores(sure).argmax().item() == 4


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("recipe", ROWS)
def test_trains_end_to_end(recipe: str, tmp_path: Path) -> None:
    """Six iterations, or the transform after them, in the tiny detector; losses are finite and recorded."""
    row = {"id": "a", "method": recipe, "detector": "torchvision/tiny_mask_rcnn", "dataset": "synthetic_tiny"}
    content: dict[str, Any] = {"name": "mine", "title": "Mine", "budget": "tiny", "rows": [row]}
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(json.dumps(content))
    run = find_run(f"{experiment}:a")
    output, init, files = tmp_path / "out" / "checkpoint.pt", None, dataset_files(run.dataset)
    if run.base is not None:
        init = tmp_path / "base" / "checkpoint.pt"
        run_stage(StageJob(run.base, "train", files, init, init=None), devices=1, workers=0)
    run_stage(StageJob(run, run.stages[-1].name, files, output, init=init), devices=1, workers=0)
    model = checkpoints.load(output)["model"]
    assert all(value.isfinite().all() for value in model.values())
    if init is not None:
        before = checkpoints.load(init)["model"]
        assert all(before[name].equal(value) for name, value in model.items())
        return
    lines = [json.loads(line) for line in (output.parent / "progress.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines][-1] == 6
