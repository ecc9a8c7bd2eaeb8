"""Ground truth that an evaluation library would misread is refused."""

from pathlib import Path
from typing import Any

import pytest
from evaluation.test_evaluator import RESULT, TRUTH, broken, mask, write_json

from benchmark.errors import BenchmarkError
from benchmark.evaluation import evaluate_detections
from benchmark.evaluation.ground_truth import read_ground_truth

RLE = {"size": [48, 64], "counts": [10, 20, 48 * 64 - 30]}


@pytest.mark.parametrize(
    ("segmentation", "part"),
    [
        ({**RLE, "counts": [10, 20, 30]}, "run lengths add up to 60 instead of 3072 pixels"),
        ({**RLE, "size": [64, 48]}, "size [64, 48] in an image of size [48, 64]"),
        ({"size": [48, 64], "counts": "PPYo1"}, "run lengths add up to"),
        ({"size": [48, 64], "counts": "ooooo"}, "run lengths add up to"),
        ([[1, 2, 3, 4]], "4 numbers"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "spans x 0 to 1e+09"),
        ([], "no"),
        ({"size": [48, 64], "counts": [-1, 3073]}, "cannot be read"),
        ("text", "cannot be read"),
    ],
)
def test_masks_that_do_not_fit_their_image_are_refused(segmentation: Any, part: str, tmp_path: Path) -> None:
    """Even without ``longtail check``; boxes can still be evaluated."""
    truth = broken(lambda content: content["annotations"][1].update(segmentation=segmentation))
    path = write_json(tmp_path / "gt.json", truth)
    detections = write_json(tmp_path / "dt.json", [{**RESULT, "segmentation": mask(RESULT["bbox"])}])
    with pytest.raises(BenchmarkError) as caught:
        evaluate_detections(path, detections, ["segm"])
    assert "annotation 2" in str(caught.value)
    assert part in str(caught.value)
    assert evaluate_detections(path, detections, ["bbox"]).metrics["bbox"]["APr"] == pytest.approx(1)


def test_the_file_decides_the_protocol(tmp_path: Path) -> None:
    assert read_ground_truth(write_json(tmp_path / "lvis.json", TRUTH)).protocol == "lvis"

    def exhaustive(content: dict[str, Any]) -> None:
        for image in content["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]
        content["annotations"][0]["iscrowd"] = 1

    truth = read_ground_truth(write_json(tmp_path / "coco.json", broken(exhaustive)))
    assert truth.protocol == "coco"
    assert truth.crowd.tolist() == [1, 0]


@pytest.mark.parametrize("value", ["1e999", "NaN"])
def test_numbers_that_are_not_finite_are_refused(value: str, tmp_path: Path) -> None:
    path = write_json(tmp_path / "gt.json", TRUTH)
    text = path.read_text()
    path.write_text(text.replace('"area": 64.0', f'"area": {value}'))
    assert path.read_text() != text
    with pytest.raises(BenchmarkError):
        evaluate_detections(path, write_json(tmp_path / "dt.json", [RESULT]))
