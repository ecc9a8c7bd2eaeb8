"""In every back end the method computes the scores of detections from all heads' logits and the proposals'
scores."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from helpers import statistics_of
from torch import Tensor

from benchmark.detectors import Detector, build_detector
from benchmark.recipes import find_run

COUNTS = [1, 8, 30, 90, 400, 5000]
DETECTORS = [
    f"{backend}/tiny_{form}"
    for backend in ("torchvision", "mmdet", "detectron2")
    for form in ("mask_rcnn", "cascade_mask_rcnn")
]


def detector_of(name: str, folder: Path) -> Detector:
    if find_spec(name.partition("/")[0]) is None:
        pytest.skip(f"back end of {name} is not installed")
    row = {"id": "a", "method": "softmax", "detector": name, "dataset": "synthetic_tiny"}
    path = folder / "scores.yaml"
    path.write_text(yaml.safe_dump({"name": "scores", "title": "Scores", "rows": [row]}))
    run = find_run(f"{path}:a")
    lenient = run.test.model_copy(update={"score_threshold": 0.0, "nms_threshold": 1.0})
    run = run.model_copy(update={"test": lenient})
    return build_detector(run, statistics_of(COUNTS), initial_weights=False).eval()


@pytest.mark.parametrize("name", DETECTORS)
def test_the_method_gets_all_heads_and_the_proposals_scores(name: str, tmp_path: Path) -> None:
    detector = detector_of(name, tmp_path)
    seen: list[tuple[list[Tensor], Tensor]] = []

    def only_objectness(heads: Sequence[Tensor], objectness: Tensor, average: str) -> Tensor:
        assert average == ("scores" if detector.settings.cascade == "detectron2" else "logits")
        seen.append((list(heads), objectness))
        return objectness[:, None].expand(-1, len(COUNTS) + 1)

    detector.classifiers[-1].detection_scores = only_objectness  # type: ignore[union-attr]
    images = [torch.rand(3, 160, 128, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    found = detector.predict(images, [(160, 128)] * 2)
    ((heads, objectness),) = seen
    assert len(heads) == detector.settings.box_head_count
    assert all(logits.shape == (len(objectness), len(COUNTS) + 1) for logits in heads)
    assert bool(((objectness > 0) & (objectness < 1)).all())
    assert len(objectness.unique()) > 10
    for detections in found:  # each proposal's own score is that of its detections
        assert set(detections.scores.tolist()) <= set(objectness.tolist())
        assert len(detections.scores) > 0
    assert not set(found[0].scores.tolist()) <= set(found[1].scores.tolist())
