"""Methods read the tables of a separate step; released files of the same data can replace them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmark.annotations import synthesize_dataset
from benchmark.detectors.checkpoints import load
from benchmark.recipes import RecipeError, find_run, load_experiment
from benchmark.recipes.models import Run, Synthetic
from benchmark.records import read_record
from benchmark.statistics import StatisticsError, write_intermediates
from benchmark.statistics import intermediates as read_intermediates
from benchmark.steps import Means, StepError, find_step, make, run_files, steps_of
from benchmark.training import StageJob, run_stage

SIZES = {"train_images": 24, "val_images": 12, "image_size": 64, "categories": 6}
BAGS = {
    "groups": {"file": "release/label2binlabel.pt"},
    "group_weights": {"file": "release/bins_cls_weight.pkl"},
}
FILES = {**BAGS, "class_weights": {"file": "release/cls_weight.pt"}}
Recipe = Callable[..., Run]


def released(seed: int = 0, edges: tuple[int, ...] = (10, 20), **sizes: int) -> None:
    """Files in the releases' format, made from a synthetic dataset, in the data folder."""
    folder = Path(f"made_{seed}")
    synthesize_dataset(Synthetic(**(SIZES | sizes), seed=seed), folder)
    write_intermediates(read_intermediates(folder / "train.json")[0], "data/release", edges, upstream=True)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)

    def write(method: str = "bags+reweighted", **row: Any) -> Run:
        """A run whose groups divide the tiny dataset, with settings of its row."""
        options = {"options": {"edges": [10, 20]}} if method.startswith("bags") else {}
        content = {"id": "a", "method": method, "detector": "torchvision/tiny_mask_rcnn", **options, **row}
        content["dataset"] = "synthetic_tiny"
        text = yaml.safe_dump({"name": "e", "title": "E", "budget": "tiny", "rows": [content]})
        Path("e.yaml").write_text(text)
        return find_run("e.yaml:a")

    return write


def made(run: Run) -> dict[str, torch.Tensor]:
    """The weights after the last stage; makes missing steps before it."""
    for step in steps_of(run):
        if step.kind.name not in ("predict", "evaluate"):
            make(step, Means())
    model: dict[str, torch.Tensor] = load(steps_of(run)[-3].output())["model"]
    return model


@pytest.mark.parametrize(
    ("method", "settings"),
    [("bags+reweighted", BAGS), ("reweight", {"class_weights": FILES["class_weights"]})],
)
def test_released_files_of_the_same_content_give_the_same_bytes(
    method: str, settings: dict[str, Any], recipe: Recipe
) -> None:
    released()
    ours, theirs = recipe(method), recipe(method, released=settings)
    first, second = made(ours), made(theirs)
    places = [steps_of(run)[-3].place for run in (ours, theirs)]
    assert places[0] != places[1]
    contents = [(Path("results/store") / place / "checkpoint.pt").read_bytes() for place in places]
    assert contents[0] == contents[1]
    assert all(torch.equal(first[name], second[name]) for name in first)
    step = find_step(theirs, "intermediates")
    assert step is not None
    record = read_record(step.record)
    assert record is not None
    assert record.facts["released"].keys() == settings.keys()
    assert record.subject.sources.keys() >= settings.keys()


def test_a_method_trains_with_what_the_file_says(recipe: Recipe) -> None:
    """The weights inside groups come from the table: other weights give another classifier."""
    run = recipe()
    before = made(run)
    step, last = find_step(run, "intermediates"), steps_of(run)[-3]
    assert step is not None
    head, columns, *rows = step.output().read_text().splitlines()
    halved = [f"{row.rpartition(',')[0]},{float(row.rpartition(',')[2]) / 2}" for row in rows]
    step.output().write_text("\n".join([head, columns, *halved]) + "\n")
    shutil.rmtree(last.folder)
    with pytest.raises(StepError, match="has changed since it was made"):
        make(last, Means())
    output = Path("again/checkpoint.pt")
    init = last.inputs["init"].output()
    run_stage(StageJob(run, last.name, run_files(run), output, init=init), devices=1, workers=0)
    after = load(output)["model"]
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"train_images": 60}, r"other training data[\s\S]*another group for"),
        ({"edges": (10, 20, 30)}, "another number of groups"),
        ({"categories": 7}, "another vocabulary"),
    ],
)
def test_files_of_another_dataset_are_refused_before_any_training(
    other: dict[str, Any], what: str, recipe: Recipe
) -> None:
    released(**other)
    run = recipe(released={"groups": FILES["groups"]})
    before, step = steps_of(run)[:2], find_step(run, "intermediates")
    assert step is not None
    for item in before:
        make(item, Means())
    with pytest.raises(StatisticsError, match=what):
        make(step, Means())
    assert not step.finished


@pytest.mark.parametrize("table", ["group_weights", "class_weights"])
def test_weights_of_another_dataset_are_refused(table: str, recipe: Recipe) -> None:
    released(seed=1)
    run = recipe("reweight" if table == "class_weights" else "bags", released={table: FILES[table]})
    step = find_step(run, "intermediates")
    assert step is not None
    make(steps_of(run)[0], Means())
    with pytest.raises(StatisticsError, match=r"other training data|other sizes"):
        make(step, Means())


def test_a_file_with_another_checksum_is_refused(recipe: Recipe) -> None:
    released()
    run = recipe(released={"groups": {**FILES["groups"], "sha256": "0" * 64}})
    step = find_step(run, "intermediates")
    assert step is not None
    make(steps_of(run)[0], Means())
    with pytest.raises(StepError, match="do not have the checksum that the recipe states"):
        make(step, Means())


def test_a_row_whose_released_file_is_missing_is_skipped_with_the_reason(recipe: Recipe) -> None:
    recipe(released={"groups": FILES["groups"]})
    (row,) = load_experiment("e.yaml").rows
    assert row.skipped is not None
    assert "label2binlabel.pt" in row.skipped


def test_a_released_file_that_nothing_reads_is_refused(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="does not read the released file"):
        recipe("softmax", released={"groups": FILES["groups"]})
    with pytest.raises(RecipeError, match="does not read the released file"):
        recipe(released={"class_weights": FILES["class_weights"]})
    with pytest.raises(RecipeError, match="reads the table 'inverse_count'"):
        recipe("reweight", released={"class_weights": {"file": "release/cls_weight_bours.pt"}})
