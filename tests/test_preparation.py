"""Everything that an experiment needs is fetched and checked before it runs."""

import hashlib
from pathlib import Path

import pytest
import yaml
from datasets.web_server import Files, serving_files
from recipes.recipe_files import write_experiment

from benchmark.annotations import synthesize_dataset
from benchmark.preparation import prepare_experiment, validate_experiment
from benchmark.recipes import load_experiment
from benchmark.recipes.models import Synthetic
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
    """The path of an experiment in a project whose detector names a missing weight file."""
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
    """A file with wrong content never gets the name of the weight file."""
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


def test_a_wrong_number_of_categories_is_found_before_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    synthesize_dataset(Synthetic(categories=3, train_images=6, val_images=4, seed=0), tmp_path / "data/mine")
    split = {"annotations": "mine/train.json", "images": "mine/images"}
    content = {
        "name": "mine",
        "title": "Mine",
        "train": split,
        "val": split | {"annotations": "mine/val.json"},
    }
    problems = []
    for number in (3, 4):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content | {"categories": number}))
        experiment = load_experiment(write_experiment(tmp_path, {"dataset": "mine"}, dataset_paths=["."]))
        problems.append(validate_experiment(experiment, lambda _: None))
    assert problems[0] == []
    (text,) = problems[1]
    assert "not those of dataset 'mine'" in text
    assert "3 categories" in text
    assert "correct `categories`" in text
