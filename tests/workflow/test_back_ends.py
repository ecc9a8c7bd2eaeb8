"""The whole way in other back ends than torchvision: every row of the tiny experiment, by one setting."""

import importlib.util

import pytest
from project_copy import TINY, Project


@pytest.mark.parametrize("backend", ["mmdet", "detectron2"])
def test_every_row_ends_in_a_table_of_the_chosen_detector(project: Project, backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"back end {backend} is not installed")
    detector = f"{backend}/tiny_mask_rcnn"
    done = project.snakemake("--cores", "2", experiment=TINY, detector=detector)
    assert done.returncode == 0, done.stdout
    table = project.folder / f"results/experiments/tiny_{backend}_tiny_mask_rcnn/table.md"
    rows = [line for line in table.read_text().splitlines() if detector in line and line.startswith("|")]
    assert len(rows) == 3
    assert all("| done |" in row for row in rows)
