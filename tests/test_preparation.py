"""What an experiment needs is got before it runs: the weight files that its detectors name."""

import hashlib
from pathlib import Path

import pytest
import yaml
from datasets.web_server import Files, serving_files
from recipes.recipe_files import write_experiment

from benchmark.preparation import prepare_experiment
from benchmark.recipes import load_experiment
from benchmark.recipes.project import project_root
from benchmark.recipes.zoo import Prediction, Retraining, Zoo, ZooWeights

BODY = b"weights of a model zoo"
NAME = f"/model-{hashlib.sha256(BODY).hexdigest()[:8]}.pth"
PRESET = {
    "architecture": "mask_rcnn",
    "backbone": "resnet50",
    "init": "coco",
    "weights": {"coco": "weights/coco.pth"},
}


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a project whose detector names a weight file that is not there."""
    root = project_root()
    (tmp_path / "Snakefile").touch()
    (tmp_path / "workflows/detectors").mkdir(parents=True)
    (tmp_path / "workflows/detectors/torchvision.yaml").write_text(yaml.safe_dump({"own": PRESET}))
    for path in ("methods", "workflows/datasets", "workflows/schedules.yaml", "workflows/zoo.yaml"):
        (tmp_path / path).symlink_to(root / path)
    monkeypatch.chdir(tmp_path)
    return write_experiment(tmp_path, {"detector": "torchvision/own"})


@pytest.mark.parametrize("fault", ["", "wrong", "404"])
def test_weights_of_a_model_zoo_are_fetched_and_checked(
    fault: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with other bytes never stands under the name."""
    with serving_files(Files({NAME: BODY}, {NAME: [fault] if fault else []})) as site:
        known = ZooWeights(architecture="mask_rcnn", backbone="resnet50", url=f"{site.url}{NAME}")
        retraining = Retraining(times=1, source="nobody")
        prediction = Prediction(shared=0.5, source="nobody")
        zoo = Zoo(weights=[known], rates=[], retraining=retraining, prediction=prediction, gpus={})
        monkeypatch.setattr("benchmark.preparation.zoo", lambda: zoo)
        (found,) = prepare_experiment(load_experiment(experiment), None, lambda _: None)
        assert found.ready == (not fault), found.text
        assert Path("weights/coco.pth").exists() == found.ready
        (again,) = prepare_experiment(load_experiment(experiment), None, lambda _: None) or [found]
        assert again.ready
    assert Path("weights/coco.pth").read_bytes() == BODY
