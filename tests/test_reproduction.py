"""From released weights to a verdict on the smallest dataset, and importing on the command line."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from places import place_beside
from torch import Tensor
from typer.testing import CliRunner, Result
from workflow.project_copy import copy_project

from benchmark.cli import app
from benchmark.detectors import build_detector
from benchmark.detectors.checkpoints import conventions_of, load
from benchmark.detectors.layouts import MMDET_V1
from benchmark.errors import BenchmarkError
from benchmark.evaluation import METRICS
from benchmark.files import sha256_file
from benchmark.inference.detections import read_detections
from benchmark.recipes import find_run
from benchmark.reporting.collect import Reported, read_reported
from benchmark.reproduction import Reproduction, compare
from benchmark.statistics import ClassStatistics
from benchmark.steps import dataset_files

ROWS = """paper,row,label,method,detector,dataset,init_from,metric,value,tolerance
bags,right,,bags,,synthetic_tiny,,segm/AP,{ap},0.01
bags,right,,bags,,synthetic_tiny,,bbox/AR,{ar},0.01
bags,right,,bags,,synthetic_tiny,,segm/AP_bin1,{few},0.01
bags,right,,bags,,synthetic_tiny,,segm/unheard,10,2.0
bags,wrong,,bags,,synthetic_tiny,,segm/AP,{ap},0.01
bags,wrong,,bags,,synthetic_tiny,,bbox/AP,99,0.5
bags,twice,,bags,,synthetic_tiny,,segm/AP,1,0.5
bags,elsewhere,,bags,,lvis_v1,,segm/AP,1,0.5
bags,nobody,,bags,,synthetic_tiny,,segm/AP,1,0.5
"""
DETECTOR = "torchvision/tiny_mask_rcnn"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, workplace: Path) -> Path:
    """A copy of the project with its own experiment and published numbers, and a "released" file."""
    folder = copy_project(tmp_path_factory.mktemp("reproduction")).folder
    rows = [
        {"id": f"{name}{number}", "method": "bags", "detector": DETECTOR, "dataset": "synthetic_tiny"}
        | {"reported": f"bags/{name}"}
        for name, number in (("right", 1), ("wrong", 1), ("twice", 1), ("twice", 2), ("elsewhere", 1))
    ]
    cascade = {"id": "cascade", "detector": "mmdet/tiny_cascade_mask_rcnn", "dataset": "synthetic_tiny"}
    rows += [cascade | {"method": "bags"}]
    content = {"name": "released", "title": "Released", "budget": "tiny", "rows": rows}
    (folder / "workflows/experiments/released.yaml").write_text(yaml.safe_dump(content))
    with (folder / "workflows/budgets/tiny.yaml").open("a") as budget:
        budget.write("answers: bags\n")
    place_beside(folder, workplace)
    (folder / "results/reported/reported.csv").write_text(ROWS.format(ap=0, ar=0, few=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.save({"meta": {"epoch": 12}, "state_dict": released()}, folder / "released.pth")
        longtail("reproduce", "bags", "right", "--weights", "released.pth")
        metrics = json.loads((folder / "results/reproduced/bags/right/metrics.json").read_text())
        ap, ar = metrics["segm"]["AP"] * 100, metrics["bbox"]["AR@300"] * 100
        few = metrics["segm"]["AP[0,10)"] * 100
        (folder / "results/reported/reported.csv").write_text(ROWS.format(ap=ap, ar=ar, few=few))
    return folder


@pytest.fixture(autouse=True)
def inside_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def longtail(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def released(recipe: str = "released:right1") -> dict[str, Tensor]:
    """A tiny model under the names of mmdetection 1; boxes and masks are class-agnostic there too."""
    run = find_run(recipe)
    naming = "mmdet cascade" if run.detector.box_head_count > 1 else "torchvision"
    statistics = ClassStatistics.read(dataset_files(run.dataset).statistics)
    model = build_detector(run, statistics, initial_weights=False)
    with torch.no_grad():
        model.classifiers[0].linear.bias[1] += 3  # more foreground than an untrained model has
    state = {}
    for name, value in model.state_dict().items():
        theirs = MMDET_V1.theirs(name, naming)
        assert theirs is not None
        state[theirs] = value
    return state


def test_numbers_within_their_tolerance_are_a_reproduction() -> None:
    done = longtail("reproduce", "bags", "right", "--weights", "released.pth")
    assert done.exit_code == 0, done.output
    assert "reproduced: 3 of 3 numbers" in done.output
    assert "not judged" in done.output  # a number that the evaluation does not have
    content = json.loads(Path("results/reproduced/bags/right/reproduction.json").read_text())
    assert content["reproduced"] is True
    origin = json.loads(Path("results/reproduced/bags/right/checkpoint.import.json").read_text())
    assert origin["files"] == {"released.pth": sha256_file("released.pth")}


def test_one_number_outside_is_none() -> None:
    done = longtail("reproduce", "bags", "wrong", "--weights", "released.pth")
    assert done.exit_code == 1, done.output
    assert "not reproduced: 1 of 2" in done.output
    assert "outside" in done.output


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ("absent", [], "no published row 'bags/absent'"),
        ("nobody", [], "no recipe reproduces 'bags/nobody'"),
        ("twice", [], "--recipe released:twice1"),
        ("elsewhere", [], "another dataset"),
        ("right", ["--head", "released.pth"], "no second file"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(row: str, options: list[str], said: str) -> None:
    done = longtail("reproduce", "bags", row, "--weights", "released.pth", *options)
    assert isinstance(done.exception, BenchmarkError)
    assert said in str(done.exception)


def test_a_recipe_may_be_chosen() -> None:
    done = longtail("reproduce", "bags", "twice", "--weights", "released.pth", "--recipe", "released:twice2")
    assert "1 numbers within their tolerance" in done.output


def test_an_imported_checkpoint_is_a_finished_one(tmp_path: Path) -> None:
    """Prediction and training use it with the conventions that came with it."""
    output = tmp_path / "checkpoint.pt"
    done = longtail(
        "import-checkpoint", "released.pth", "released:right1", "--from", "bags", "-o", str(output)
    )
    assert done.exit_code == 0, done.output
    assert "tensors in the layout of mmdetection 1 taken over" in done.output
    expected = {"coordinates": "mmdet_v1", "stride_in_1x1": False, "pixels": "torchvision"}
    assert conventions_of(output) == expected
    run = find_run("released:right1")
    assert load(output)["stage"] == run.stages[-1].name
    again = tmp_path / "again" / "checkpoint.pt"
    done = longtail("train", "released:right1", "retrain", "--init", str(output), "-o", str(again))
    assert done.exit_code == 0, done.output
    assert conventions_of(again) == conventions_of(output)


def test_a_released_cascade_is_evaluated_in_back_end_mmdet(tmp_path: Path) -> None:
    """With the coordinates of its framework."""
    if importlib.util.find_spec("mmdet") is None:
        pytest.skip("back end mmdet is not installed")
    torch.save(released("released:cascade"), tmp_path / "cascade.pth")
    output = tmp_path / "checkpoint.pt"
    imported = longtail(
        "import-checkpoint", str(tmp_path / "cascade.pth"), "released:cascade", "--from", "bags",
        "-o", str(output),
    )  # fmt: skip
    assert imported.exit_code == 0, imported.output
    assert "kept       coordinates: mmdet_v1" in imported.output
    found = tmp_path / "detections.parquet"
    done = longtail("predict", "released:cascade", "--checkpoint", str(output), "-o", str(found))
    assert done.exit_code == 0, done.output
    assert len(read_detections(found)) > 0


def test_a_refused_file_leaves_nothing(tmp_path: Path) -> None:
    state = released()
    del state["bbox_head.fc_cls.weight"]
    torch.save(state, tmp_path / "damaged.pth")
    done = longtail(
        "import-checkpoint", str(tmp_path / "damaged.pth"), "released:right1", "--from", "bags",
        "-o", str(tmp_path / "checkpoint.pt"),
    )  # fmt: skip
    assert "bbox_head.fc_cls.weight: missing" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.pth"]


def test_bins_are_those_of_the_mean_that_the_row_has() -> None:
    numbers: dict[str, float | None] = {"AP": 0.1}
    numbers |= {f"AP[{i}]": i / 100 for i in range(4)} | {"bAP": 0.5}
    numbers |= {f"AP[{i}]": i / 100 for i in range(4, 8)} | {"eAP": 0.6, "AR@100": 0.7}
    for mean, first in (("bAP", 0), ("eAP", 4)):
        values = {f"bbox/AP_bin{i + 1}": float(first + i) for i in range(4)} | {f"bbox/{mean}": 0.0}
        found = compare(Reported("", values | {"bbox/AR": 70.0}, {}), {"bbox": numbers}, 100)
        assert [item.ours for item in found[:4]] == pytest.approx([first + i for i in range(4)])
        assert found[-1].ours == pytest.approx(70)
    assert not Reproduction("", "", found).holds  # nothing is judged


def test_published_numbers_are_called_as_in_the_evaluation() -> None:
    """Except bins, which are numbered."""
    root = Path(__file__).resolve().parents[1]
    others = re.compile(r"AP_bin[1-4]")
    for row, reported in read_reported(root / "results/reported/reported.csv").items():
        for metric in reported.values:
            iou, _, key = metric.partition("/")
            assert iou in ("bbox", "segm")
            known = key in METRICS or f"{key}@300" in METRICS
            assert known or others.fullmatch(key), (row, metric)
