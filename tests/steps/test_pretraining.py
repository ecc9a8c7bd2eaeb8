"""Rows of a budget with a pretraining start from its weights, except for those of their categories."""

from pathlib import Path

import pytest
import yaml
from places import step_of

from benchmark.detectors import checkpoints
from benchmark.recipes import load_experiment
from benchmark.recipes.paths import run_name
from benchmark.reporting.status import collect_status
from benchmark.steps import Means, link, make, steps_of

SMALL = {
    "name": "small",
    "title": "Small",
    "categories": 8,
    "synthetic": {"train_images": 8, "val_images": 4, "image_size": 160, "categories": 8, "seed": 1},
}
SHORT = {
    "iterations": 1,
    "reference_batch_size": 2,
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "decay": "cosine",
}


def test_a_pretraining_on_other_categories_is_the_start_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    pretraining = {
        "method": "softmax",
        "dataset": "small",
        "detector": {"norm": "frozen", "trainable_layers": 2},
    }
    budget = {"name": "b", "all": SHORT, "pretraining": pretraining}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(budget))
    row = {
        "id": "a",
        "method": "sigmoid",
        "detector": "torchvision/tiny_mask_rcnn",
        "dataset": "synthetic_tiny",
    }
    content = {
        "name": "e",
        "title": "E",
        "budget": "b.yaml",
        "dataset_paths": ["."],
        "seeds": [1],
        "rows": [row],
    }
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(content))
    experiment = load_experiment("e.yaml")
    (run,) = experiment.rows[0].runs
    trained = step_of(run, "train")
    before = trained.inputs["init"]
    for step in steps_of(run):
        if step.kind.name not in ("predict", "evaluate"):
            make(step, Means())
    link(run)

    theirs, own = (checkpoints.load(step.output())["model"] for step in (before, trained))
    kept = {name for name in own if name in theirs and own[name].equal(theirs[name])}
    assert "backbone.body.conv1.weight" in kept
    assert "backbone.body.layer4.0.conv1.weight" not in kept
    rows = [len(state["classifiers.0.linear.bias"]) for state in (theirs, own)]
    assert rows == [before.dataset.categories + 1, run.dataset.categories]

    status = collect_status(experiment)
    assert [dataset.name for dataset in status.datasets] == ["small", "synthetic_tiny"]
    assert [(item.rows, item.base) for item in status.tree] == [
        ([], None),
        (["a"], run_name(before.run)),
    ]
    links = tmp_path / "results"
    assert (links / "runs" / run_name(before.run) / "train" / "checkpoint.pt").is_file()
    assert (links / "data" / "small" / "synthesize" / "train.json").is_file()
