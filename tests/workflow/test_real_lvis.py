"""The whole way on real LVIS v0.5 annotations: 1,230 categories, most without an image, COCO file names."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from places import make_here, step_of

from benchmark.evaluation import evaluate_detections
from benchmark.inference.detections import read_detections, write_lvis_results
from benchmark.recipes import find_run, load_experiment
from benchmark.reporting import write_report
from benchmark.statistics import ClassStatistics
from benchmark.steps import dataset_files

LVIS = Path(__file__).parent.parent / "data" / "lvis_val_100.json"
IMAGES = 12


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder as the README asks for, with real annotations of some images and pictures of noise."""
    content = json.loads(LVIS.read_text())
    content["images"] = content["images"][:IMAGES]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in kept]
    data = tmp_path / "data"
    for folder in ("lvis_v0.5", "coco/train2017", "coco/val2017"):
        (data / folder).mkdir(parents=True)
    for split in ("train", "val"):
        (data / "lvis_v0.5" / f"lvis_v0.5_{split}.json").write_text(json.dumps(content))
    generator = np.random.default_rng(0)
    for image in content["images"]:
        small = generator.integers(0, 255, (image["height"] // 8, image["width"] // 8, 3), np.uint8)
        picture = Image.fromarray(small).resize((image["width"], image["height"]))
        picture.save(data / "coco" / "/".join(image["coco_url"].split("/")[-2:]))
    row = {"method": "bags", "detector": "torchvision/tiny_faster_rcnn", "dataset": "lvis_v0.5"}
    rows = [{"id": "14", "reported": "bags/14", **row}]
    experiment = {"name": "real", "title": "Real annotations", "budget": "tiny", "rows": rows}
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(experiment))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("place")
def test_from_annotations_to_the_table() -> None:
    run = find_run("real.yaml:14")
    make_here(run)
    files, detections = dataset_files(run.dataset), step_of(run, "predict").output()
    assert (ClassStatistics.read(files.statistics).image_counts == 0).sum() > 900

    val, table = files.val, read_detections(detections)
    assert table.boxes is not None
    sizes = {
        image["id"]: (image["width"], image["height"]) for image in json.loads(val.read_text())["images"]
    }
    limits = np.array([sizes[image] for image in table.image_ids.tolist()])
    assert (table.boxes[:, :2] + table.boxes[:, 2:] <= limits + 1e-2).all()
    write_lvis_results(detections, Path("results.json"))
    ours = evaluate_detections(val, detections).metrics
    assert ours == evaluate_detections(val, Path("results.json")).metrics
    assert set(ours) == {"bbox"}

    text = write_report(load_experiment("real.yaml"), None)
    assert "lvis_v0.5" in text
    assert "25.96" in text  # published, beside a run that does not claim to answer to it yet
