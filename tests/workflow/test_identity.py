"""What runs again after an edit, a move or a copy: what the README's table says, line by line, and nothing
else.

The results are made up, so that only what the workflow plans counts; the project's own code is a copy, too.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from places import fabricate
from project_copy import TINY, Project, copy_project
from reporting.results_tree import complete_run

from benchmark.numerics import method_version
from benchmark.recipes import load_experiment
from benchmark.steps import steps_of, steps_of_experiment

METHODS = ("softmax", "sigmoid", "bags")
TABLE = {"table", "all"}
TESTING = {f"{step} {method}" for step in ("predict", "evaluate") for method in METHODS}
TRAINING = {"train softmax", "train sigmoid", "retrain bags"}
BAGS = {"retrain bags", "predict bags", "evaluate bags"}


def made_up(project: Project, experiment: str, *rows: str) -> None:
    """Finish the chosen rows of an experiment, or all."""
    method_version.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        for row in load_experiment(experiment).rows:
            for run in row.runs if not rows or row.id in rows else []:
                complete_run(run, 0.5, 0.4)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished tiny experiment."""
    project = copy_project(tmp_path_factory.mktemp("project"), "benchmark")
    shutil.copy(TINY, project.folder)
    made_up(project, "tiny.yaml")
    done = project.snakemake(experiment="tiny.yaml")
    assert done.returncode == 0, done.stdout
    assert planned(project) == set()
    return project


def planned(project: Project) -> set[str]:
    return set(project.planned(experiment="tiny.yaml"))


@contextmanager
def edited(project: Project, name: str, old: str, new: str) -> Iterator[None]:
    """Within it a file has ``new`` for ``old``; afterwards it is as it was."""
    path = project.folder / name
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(before)


PRESETS, LOOP = "workflows/detectors/torchvision.yaml", "benchmark/training/loop.py"


@pytest.mark.parametrize(
    ("name", "old", "new", "again"),
    [
        (
            "benchmark/recipes/detector_settings.py",
            "    rpn_samples: int",
            '    later: bool = Field(False, description="a new setting, whose default is the old way")\n'
            "    rpn_samples: int",
            set(),
        ),
        ("workflows/budgets/tiny.yaml", "checkpoint_every: 2", "checkpoint_every: 3", set()),
        ("workflows/datasets/synthetic_tiny.yaml", "title: ", "title: Another ", TABLE),
        ("methods/bags/method.yaml", "title: BAGS\n", "title: Groups\n", TABLE),
        ("results/reported/reported.csv", "\n", "\nbags,99,,bags,,lvis_v1,,segm/AP,1,0.5\n", TABLE),
        ("benchmark/reporting/tables.py", "runs done", "runs finished", TABLE),
        (PRESETS, "rpn_test_proposals: 100", "rpn_test_proposals: 77", TESTING | TABLE),
        (PRESETS, "test_short_edge: 160", "test_short_edge: 128", TESTING | TABLE),
        ("methods/bags/method.yaml", "max_detections: 300", "max_detections: 200",
         BAGS - {"retrain bags"} | TABLE),
        ("methods/bags/method.yaml", "others_ratio: 8.0", "others_ratio: 4.0", BAGS | TABLE),
        ("methods/bags/classifier.py", "import", "import  ", BAGS | TABLE),
        (PRESETS, "fpn_channels: 64", "fpn_channels: 32", TRAINING | TESTING | TABLE),
        ("benchmark/classifiers/interface.py", "import", "import  ", TRAINING | TESTING | TABLE),
        (LOOP, "import", "import  ", TRAINING | TESTING | TABLE),
        ("benchmark/inference/predict.py", "import", "import  ", TESTING | TABLE),
        ("benchmark/evaluation/engine.py", "import", "import  ", {f"evaluate {m}" for m in METHODS} | TABLE),
        ("workflows/datasets/synthetic_tiny.yaml", "val_images: 12", "val_images: 13",
         TRAINING | TESTING | TABLE | {"synthesize", "statistics", "intermediates"}),
    ],
)  # fmt: skip
def test_an_edit_makes_again_what_it_may_change_and_nothing_else(
    project: Project, name: str, old: str, new: str, again: set[str]
) -> None:
    with edited(project, name, old, new):
        assert planned(project) == again
        done = json.loads(project.longtail("status", "tiny.yaml", "--json").stdout)["done"]
        finished = {method for method in METHODS if f"evaluate {method}" not in again}
        assert done == len(finished)


def test_after_all_edits_are_undone_nothing_was_lost(project: Project) -> None:
    assert planned(project) == set()


def test_edited_code_is_said_by_status_and_table_and_found_by_the_canary(project: Project) -> None:
    """The softmax loss doubled: the numbers of before are shown, but not as those of the code here."""
    doubled = ("F.cross_entropy(logits, labels", "2 * F.cross_entropy(logits, labels")
    with edited(project, "benchmark/classifiers/interface.py", *doubled):
        said = project.longtail("status", "tiny.yaml").stdout
        assert "0 of 3 runs done" in said
        assert "numbers of other code: classifiers 1 (now 1+" in " ".join(said.split())
        table = project.longtail("table", "tiny.yaml", "-o", "elsewhere").stdout
        assert table.count("numbers of other code: classifiers 1 (now 1+") >= 3
        why = project.longtail("why", "tiny.yaml:softmax").stdout
        assert "version of area classifiers: 1 there, 1+" in why


def test_results_that_were_copied_or_linked_are_as_good_as_made_here(
    project: Project, tmp_path: Path
) -> None:
    """Copying gives every file the time of the copy, in any order."""
    for name, take in (("copied", shutil.copytree), ("linked", os.symlink)):
        clone = copy_project(tmp_path / name)
        shutil.copy(TINY, clone.folder)
        take(project.folder / "results" / "store", clone.folder / "results" / "store")
        assert set(clone.planned(experiment="tiny.yaml")) == TABLE


def test_two_halves_of_an_experiment_make_a_whole_without_a_job(tmp_path: Path) -> None:
    clones = []
    for name, rows in (("one", ["softmax"]), ("other", ["sigmoid", "bags"])):
        clone = copy_project(tmp_path / name)
        shutil.copy(TINY, clone.folder)
        made_up(clone, "tiny.yaml", *rows)
        clones.append(clone)
    one, other = clones
    assert set(one.planned(experiment="tiny.yaml")) > TABLE
    shutil.copytree(other.folder / "results/store", one.folder / "results/store", dirs_exist_ok=True)
    assert set(one.planned(experiment="tiny.yaml")) == TABLE
    done = one.snakemake(experiment="tiny.yaml")
    assert done.returncode == 0, done.stdout
    assert "3 of 3 runs done" in (one.folder / "results/experiments/tiny/table.md").read_text()


def test_real_data_may_move_and_be_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = copy_project(tmp_path)
    data = project.folder / "data"
    (data / "images").mkdir(parents=True)
    for split in ("train", "val"):
        (data / f"{split}.json").write_text(json.dumps({"split": split, "filler": "x" * 2_000_000}))
    sides = {split: {"annotations": f"{split}.json", "images": "images"} for split in ("train", "val")}
    dataset = {"name": "mine", "title": "Mine", "categories": 40, **sides}
    (project.folder / "workflows/datasets/mine.yaml").write_text(yaml.safe_dump(dataset))
    row = {"id": "a", "method": "bags", "detector": "torchvision/tiny_mask_rcnn", "dataset": "mine"}
    (project.folder / "e.yaml").write_text(yaml.safe_dump({"name": "e", "title": "E", "rows": [row]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        for step in steps_of(load_experiment("e.yaml").rows[0].runs[0]):
            fabricate(step)
    assert set(project.planned(experiment="e.yaml")) == TABLE
    for split in ("train", "val"):
        path = data / f"{split}.json"
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert set(project.planned(experiment="e.yaml")) == TABLE
    data.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path / "elsewhere"))
    assert set(project.planned(experiment="e.yaml")) == TABLE
    (tmp_path / "elsewhere/train.json").write_text("{}")
    assert set(project.planned(experiment="e.yaml")) > {"statistics", "train softmax", "retrain bags"}


def test_a_dataset_of_the_same_name_does_not_take_the_place_of_another(project: Project) -> None:
    """Its results are others; those of the first are still there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        before = set(steps_of_experiment(load_experiment("tiny.yaml")))
        with edited(project, "workflows/datasets/synthetic_tiny.yaml", "val_images: 12", "val_images: 13"):
            after = set(steps_of_experiment(load_experiment("tiny.yaml")))
    assert not before & after
    assert all((project.folder / "results/store" / place / "record.json").is_file() for place in before)


def test_commands_find_the_project_from_a_folder_below(project: Project) -> None:
    below = Project(project.folder / "methods" / "bags")
    done = below.longtail("status", "../../tiny.yaml")
    assert "3 of 3 runs done" in done.stdout
    assert not (below.folder / "results").exists()
