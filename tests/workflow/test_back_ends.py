"""The whole way in other back ends than torchvision, by one setting."""

import importlib.util

import pytest
import yaml
from project_copy import Project

ROW = {"id": "bags", "method": "bags", "detector": "torchvision/tiny_mask_rcnn", "dataset": "synthetic_tiny"}
EXPERIMENT = {"name": "chosen", "title": "In a chosen back end", "budget": "tiny", "rows": [ROW]}


@pytest.mark.parametrize("backend", ["mmdet", "detectron2"])
def test_a_base_and_its_classifier_end_in_a_table_of_the_chosen_detector(
    prepared: Project, backend: str
) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"back end {backend} is not installed")
    detector = f"{backend}/tiny_mask_rcnn"
    (prepared.folder / "chosen.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    done = prepared.snakemake("--cores", "2", experiment="chosen.yaml", detector=detector)
    assert done.returncode == 0, done.stdout
    table = prepared.folder / f"results/experiments/chosen_{backend}_tiny_mask_rcnn/table.md"
    (row,) = [line for line in table.read_text().splitlines() if detector in line and line.startswith("|")]
    assert "| done |" in row
