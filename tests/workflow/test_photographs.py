"""From annotations and photographs (generated stand-ins where there are none) to the numbers of a subset."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import make_here, step_of

from benchmark.annotations import check_dataset, counted
from benchmark.datasets import prepare_dataset
from benchmark.recipes import find_run, load_dataset, load_experiment
from benchmark.reporting import write_report

SPLITS = ("train", "val")


def write_datasets(data: Path, files: dict[str, str], images: str, **subset: int) -> None:
    """The dataset ``whole`` in the data folder, and its subset ``part``; an experiment on that."""
    categories = len(json.loads((data / files["train"]).read_text())["categories"])
    whole = {split: {"annotations": files[split], "images": images} for split in SPLITS}
    part = {split: {"annotations": f"part/{split}.json", "images": "part/images"} for split in SPLITS}
    datasets: list[dict[str, Any]] = [
        {"name": "whole", "title": "Whole", "categories": categories, **whole},
        {"name": "part", "title": "Part", "categories": subset["categories"], **part},
    ]
    datasets[1]["subset"] = {"of": "whole", **subset}
    for content in datasets:
        Path(f"{content['name']}.yaml").write_text(yaml.safe_dump(content))
    row = {"id": "a", "method": "bags", "detector": "torchvision/tiny_mask_rcnn", "dataset": "part"}
    experiment = {"name": "photos", "title": "Photographs", "budget": "tiny", "dataset_paths": ["."]}
    Path("photos.yaml").write_text(yaml.safe_dump({**experiment, "rows": [row]}))


@pytest.fixture
def data(tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with links to the photographs, in a new working directory."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in photographs.iterdir():
        (folder / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LONGTAIL_DATA", raising=False)
    return folder


def test_the_photographs_have_no_errors(photographs: Path) -> None:
    files = [photographs / f"{split}.json" for split in SPLITS]
    assert counted(check_dataset(*files, photographs / "images", masks=True))["error"] == 0


def prepared() -> None:
    done = prepare_dataset(load_dataset("part.yaml"), Path("data"), None, lambda _: None)
    assert all(item.ready for item in done), [item.text for item in done]


def test_a_subset_is_drawn_trained_on_and_evaluated(data: Path) -> None:
    files = {split: f"{split}.json" for split in SPLITS}
    write_datasets(data, files, "images", train_images=40, val_images=15, categories=20)
    prepared()
    run = find_run("photos.yaml:a")
    make_here(run)
    metrics = json.loads(step_of(run, "evaluate").output().read_text())
    assert set(metrics) == {"bbox", "segm"}
    assert json.loads(step_of(run, "check").output("problems").read_text()) is not None
    assert "1 of 1 runs done" in write_report(load_experiment("photos.yaml"), None)


def test_lvis_photographs_go_the_same_way(data: Path) -> None:
    """Records of LVIS v0.5 with the file names of COCO 2014."""
    if not (data / "lvis").is_dir():
        pytest.skip("no photographs of LVIS are here")
    files = dict.fromkeys(SPLITS, "lvis/lvis_val_15.json")
    write_datasets(data, files, "lvis/images", train_images=13, val_images=13, categories=25)
    prepared()
    run = find_run("photos.yaml:a")
    make_here(run)
    assert set(json.loads(step_of(run, "evaluate").output().read_text())) == {"bbox", "segm"}
