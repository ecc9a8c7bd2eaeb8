"""What every method must keep, run over all that are found: the repository's, and those in ``METHOD_PATHS``.

``METHOD_PATHS`` is a list of folders of methods, separated like ``PATH``. A method passes with its variants.
All methods go from initial weights to detections in ``TINY``, and in the detectors that
``CONFORMANCE_DETECTORS`` names, separated by commas; those of ``KINDS`` in each of ``DETECTORS`` whose back
end is installed.
"""

import importlib.util
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from helpers import statistics_of
from torch import Tensor

from benchmark.classifiers import Classifier
from benchmark.detectors.build import build_classifier
from benchmark.inference.detections import read_detections
from benchmark.inference.predict import predict_dataset
from benchmark.recipes import find_run
from benchmark.recipes.models import Run
from benchmark.recipes.paths import run_name
from benchmark.recipes.plugins import find_plugins
from benchmark.recipes.project import project_root
from benchmark.sampling import seeded
from benchmark.steps import dataset_files
from benchmark.training import StageJob, run_stage

FOLDERS = [Path(path).resolve() for path in os.environ.get("METHOD_PATHS", "").split(os.pathsep) if path]
PLUGINS = find_plugins(FOLDERS)
METHODS = [
    name + end for name, plugin in PLUGINS.items() for end in ["", *(f"+{v}" for v in plugin.method.variants)]
]
COUNTS = {
    "long tail": [1, 8, 30, 90, 400, 5000],
    "a class without training images": [0, 8, 30, 90, 400, 5000],
    "all alike": [20, 20, 20, 20, 20, 20],  # group tables have empty groups
}
TINY = "torchvision/tiny_mask_rcnn"
DETECTORS = ["torchvision/tiny_cascade_mask_rcnn"]
DETECTORS += ["mmdet/tiny_mask_rcnn", "mmdet/tiny_htc"]  # HTC is a cascade
DETECTORS += ["detectron2/tiny_mask_rcnn", "detectron2/tiny_cascade_mask_rcnn"]
KINDS = {
    "balms": "a step before every step",
    "bags": "tables made from the annotations; a new last layer",
    "federated": "scores that use those of the proposals and of all heads",
    "loce": "state of the loss; its own choice of RoIs",
    "logn": "a stage that looks at training images as they are sampled",
    "ncm_fc": "a stage that looks at the training images' objects",
    "norcal": "a stage that predicts on training images",
    "seesaw": "a loss with state, trained with the detector",
    "simcal": "a second box head; a choice among the sampled RoIs",
    "softmax": "a loss",
    "tau_norm": "a stage that changes weights",
}
"""Methods that need different things of a detector. What another method needs is here too."""
EVERYWHERE = [TINY, *(name for name in os.environ.get("CONFORMANCE_DETECTORS", "").split(",") if name)]
END_TO_END = [(detector, method) for detector in dict.fromkeys(EVERYWHERE) for method in sorted(PLUGINS)]
END_TO_END += [(detector, method) for detector in DETECTORS if detector not in EVERYWHERE for method in KINDS]
# Variants that reproduce a defect of a release, by which they do not learn.
DO_NOT_LEARN = {
    "focal+released_kernel": "the released kernel reads the labels of one proposal for all",
    "focal+cls_released_kernel": "the released kernel reads the labels of one proposal for all",
}
C = 6
LABELS = {
    "mixed": [0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 2, 2],
    "no foreground": [6] * 8,
    "no background": [0, 1, 2, 3, 4, 5],
    "one proposal": [0],
    "one background proposal": [6],
    "nothing": [],
}


@cache
def run_of(method: str, detector: str = TINY) -> Run:
    """The run of a method with the smallest budget, from an experiment as users write it."""
    row = {
        "id": "row",
        "method": method,
        "detector": detector,
        "dataset": "synthetic_tiny",
    }
    content = {"name": "conformance", "title": "Conformance", "budget": "tiny", "rows": [row]}
    content["method_paths"] = [str(folder) for folder in FOLDERS]
    path = Path(os.environ["PYTEST_CONFORMANCE"]) / "conformance.yaml"
    path.write_text(yaml.safe_dump(content))
    return find_run(f"{path}:row")


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_CONFORMANCE", str(tmp_path_factory.mktemp("conformance")))
        yield


def classifier_of(method: str, counts: str = "long tail") -> Classifier:
    with seeded(3):
        classifier = build_classifier(run_of(method), statistics_of(COUNTS[counts]))
    return classifier.double()


def features_of(classifier: Classifier, rows: int) -> Tensor:
    with seeded(4):
        return torch.randn(rows, classifier.in_features + classifier.pooled_features, dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("labels", LABELS)
def test_losses_and_gradients_are_finite(method: str, counts: str, labels: str) -> None:
    classifier = classifier_of(method, counts)
    y = torch.tensor(LABELS[labels], dtype=torch.int64)
    logits = classifier(features_of(classifier, len(y)))
    with seeded(5):
        losses = classifier.loss(logits, y)
    assert losses
    assert all(name.startswith("loss_cls") and value.shape == () for name, value in losses.items())
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    assert total >= 0
    total.backward()
    gradients = [p.grad for p in classifier.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    if labels == "mixed":
        assert any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_sees_parameters_through_the_logits_alone(method: str) -> None:
    """Training computes the gradients of all workers' losses by the logits first, then one backward pass of
    the network."""
    classifier, y = classifier_of(method), torch.tensor(LABELS["mixed"])
    logits = classifier(features_of(classifier, len(y))).detach().requires_grad_()
    with seeded(5):
        torch.stack(list(classifier.loss(logits, y).values())).sum().backward()
    assert logits.grad is not None
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("counts", COUNTS)
def test_scores_are_probabilities_with_background_last(method: str, counts: str) -> None:
    classifier = classifier_of(method, counts)
    for rows, scale in ((5, 1.0), (1, 30.0), (0, 1.0)):
        scores = classifier.scores(classifier(features_of(classifier, rows) * scale))
        assert scores.shape == (rows, C + 1)
        assert bool(((scores >= 0) & (scores <= 1)).all())


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_teaches_the_scores(method: str) -> None:
    """After some steps on separable features, the right category scores higher than at the start."""
    if method in DO_NOT_LEARN:
        pytest.skip(DO_NOT_LEARN[method])
    classifier = classifier_of(method)
    y = torch.arange(C).repeat(8)
    x = 3 * torch.nn.functional.normalize(features_of(classifier, C))[y]  # one feature for a category
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    if not parameters:
        pytest.skip("nothing of this classifier is learned by gradient")
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    before = classifier.scores(classifier(x)).gather(1, y[:, None]).mean().item()
    for step in range(30):
        with seeded(step):
            loss = torch.stack(list(classifier.loss(classifier(x), y).values())).sum()
        classifier.finish_step(_one_worker)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert classifier.scores(classifier(x)).gather(1, y[:, None]).mean().item() > before


@pytest.mark.parametrize("method", METHODS)
def test_the_state_changes_when_a_step_ends(method: str) -> None:
    """Both workers of a step read the same state; the next step's state is finite, without gradient."""
    classifier = classifier_of(method)
    x, y = features_of(classifier, 12), torch.tensor(LABELS["mixed"])
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    losses = []
    for _ in range(2):
        with seeded(5):
            losses.append(torch.stack(list(classifier.loss(classifier(x), y).values())).sum().item())
    assert losses[0] == losses[1]
    assert all(value.equal(before[name]) for name, value in classifier.state_dict().items())
    classifier.finish_step(_one_worker)
    assert all(value.isfinite().all() for value in classifier.state_dict().values())
    assert not any(buffer.requires_grad for buffer in classifier.buffers())


def _one_worker(value: Tensor) -> Tensor:
    return value


@pytest.mark.parametrize("method", METHODS)
def test_lower_precision_agrees(method: str) -> None:
    """Features and weights in bfloat16, logits cast up for the loss as the detectors do."""
    classifier = classifier_of(method)
    x, y = features_of(classifier, 12), torch.tensor(LABELS["mixed"])
    with seeded(6):
        exact = torch.stack(list(classifier.loss(classifier(x), y).values())).sum()
    classifier = classifier.float()
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(x.float())
    with seeded(6):
        rough = torch.stack(list(classifier.loss(logits.float(), y).values())).sum()
    assert rough.item() == pytest.approx(exact.item(), rel=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_vector_belongs_to_its_category(method: str) -> None:
    """One vector per category; changing it changes one logit."""
    classifier = classifier_of(method)
    with torch.no_grad(), seeded(7):
        for parameter in classifier.parameters():  # some methods start with all vectors alike
            parameter.normal_()
    weights = classifier.category_weights()
    if weights is None or not weights.any():
        return
    assert len(weights) == classifier.num_classes
    assert torch.isfinite(weights).all()
    x, vector = features_of(classifier, 12), weights[classifier.num_classes // 2].clone()
    with torch.no_grad():
        before = classifier(x)
        holders = [
            tensor
            for tensor in (*classifier.parameters(), *classifier.buffers())
            if tensor.is_floating_point()
            and (tensor.shape[1:] == vector.shape)
            and (tensor == vector).all(dim=1).any()
        ]
        if not holders:  # it is made from several: the method's own tests say how
            return
        for tensor in holders:
            tensor[(tensor == vector).all(dim=1)] = vector.flip(0) + 1
        assert (classifier(x) != before).any(dim=0).sum() == 1


@pytest.mark.parametrize("method", METHODS)
def test_state_survives_a_checkpoint(method: str, tmp_path: Path) -> None:
    classifier = classifier_of(method)
    torch.save(classifier.state_dict(), tmp_path / "state.pt")
    with seeded(8):
        other = build_classifier(run_of(method), statistics_of(COUNTS["long tail"])).double()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    x = features_of(classifier, 4)
    assert other.scores(other(x)).equal(classifier.scores(classifier(x)))


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_the_manifest_is_complete(name: str) -> None:
    """A README that documents every option, and a paper for the methods of the project."""
    plugin = PLUGINS[name]
    readme = (plugin.folder / "README.md").read_text()
    for option in plugin.method.options:
        assert f"`{option}`" in readme
    if plugin.folder.is_relative_to(project_root() / "methods") and plugin.method.paper.title:
        assert plugin.method.paper.venue
        arxiv = plugin.method.paper.arxiv
        assert arxiv is None or re.fullmatch(r"\d{4}\.\d{5}", arxiv)


@pytest.mark.parametrize(("detector", "method"), END_TO_END)
@pytest.mark.usefixtures("inside")
def test_every_stage_runs_and_detects(detector: str, method: str) -> None:
    """The method's main form, from initial weights to detections."""
    if importlib.util.find_spec(detector.partition("/")[0]) is None:
        pytest.skip(f"back end of {detector} is not installed")
    run = run_of(method, detector)
    lenient = run.test.model_copy(update={"max_detections": 5, "score_threshold": 0.0})
    run = run.model_copy(update={"test": lenient})
    done = Path(os.environ["PYTEST_CONFORMANCE"])
    output = done / "detections" / detector / f"{method}.parquet"
    predict_dataset(run, dataset_files(run.dataset), _trained(run, done), output, workers=0)
    assert len(read_detections(output)) > 0


def _trained(run: Run, folder: Path) -> Path:
    """The final checkpoint; stages that several methods share are run once."""
    init = _trained(run.base, folder) if run.base is not None else None
    for stage in run.stages:
        output = folder / run_name(run) / stage.name / "checkpoint.pt"
        if not output.exists():
            files = dataset_files(run.dataset)
            run_stage(StageJob(run, stage.name, files, output, init=init), devices=1, workers=0)
        init = output
    return output
