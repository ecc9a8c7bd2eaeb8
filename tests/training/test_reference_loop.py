"""The training loop takes the same steps as a plain loop: rates, warm-up, clipping, momentum, decay."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.detectors import build_detector
from benchmark.detectors.checkpoints import load
from benchmark.images import TrainImages
from benchmark.recipes import find_run
from benchmark.recipes.models import Run, Schedule
from benchmark.sampling import ImageStream
from benchmark.seeds import derive_seed
from benchmark.steps import dataset_files
from benchmark.training import StageJob, run_stage
from benchmark.training.stages import read_training_data

TINY = Path(__file__).parents[1] / "workflow" / "tiny.yaml"
LENGTH, WARM_UP, DROP, RATE, FACTOR, GAMMA = 6, 2, 4, 4e-6, 0.1, 0.5
DECAY, NORM_DECAY, MOMENTUM = 0.1, 0.05, 0.8
CLIP = 270.0  # between the lengths of the gradients here
COMMON = {"iterations": LENGTH, "warmup_iterations": WARM_UP, "warmup_factor": FACTOR, "weight_decay": DECAY}
COMMON |= {"norm_weight_decay": NORM_DECAY, "batch_size": 2, "reference_batch_size": 2, "learning_rate": RATE}
SCHEDULES: dict[str, dict[str, Any]] = {
    "sgd": COMMON
    | {"decay": "step", "steps": [DROP], "gamma": GAMMA, "momentum": MOMENTUM, "clip_norm": CLIP},
    "adamw": COMMON | {"decay": "cosine", "optimizer": "adamw", "learning_rate": RATE / 20},
}


def reference(run: Run, kind: str) -> dict[str, Tensor]:
    """The weights after a training in a plain loop without frameworks."""
    files = dataset_files(run.dataset)
    annotations, statistics = read_training_data(run, files)
    seed = derive_seed(run.seed, "augmentation", "train")
    data = TrainImages(annotations, files.train_images, run.detector, seed, masks=True)
    stream = ImageStream([1.0] * len(data), derive_seed(run.seed, "training", "train"))
    detector = build_detector(run, statistics).train()
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)]
    of_norms = {id(parameter) for module in norms for parameter in module.parameters()}
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    first = [torch.zeros_like(parameter) for parameter in trained]
    second = [torch.zeros_like(parameter) for parameter in trained]
    clipped = []
    for t in range(LENGTH):
        rate = SCHEDULES[kind]["learning_rate"]
        if t < WARM_UP:
            rate *= FACTOR + (1 - FACTOR) * t / WARM_UP
        if kind == "sgd" and t >= DROP:
            rate *= GAMMA
        if kind == "adamw":
            rate *= (1 + math.cos(math.pi * t / LENGTH)) / 2
        samples = [data[stream[position], position] for position in (2 * t, 2 * t + 1)]
        pairs = [sample.on(torch.device("cpu")) for sample in samples]
        losses = detector.losses([image for image, _ in pairs], [target for _, target in pairs if target])
        gradients = torch.autograd.grad(sum(losses.values()), trained)
        length = torch.stack([(g * g).sum() for g in gradients]).sum().sqrt()
        clipped.append(bool(length > CLIP))
        with torch.no_grad():
            for p, g, m, v in zip(trained, gradients, first, second, strict=True):
                decay = NORM_DECAY if id(p) in of_norms else DECAY
                if kind == "sgd":
                    m.mul_(MOMENTUM).add_(g * min(1.0, CLIP / float(length)) + decay * p)
                    p -= rate * m
                else:
                    p *= 1 - rate * decay
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g * g)
                    p -= rate * (m / (1 - 0.9 ** (t + 1))) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
    assert kind == "adamw" or set(clipped) == {True, False}
    return {name: value.detach() for name, value in detector.state_dict().items()}


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_steps_of_a_plain_loop(tmp_path: Path, kind: str) -> None:
    """Tensor by tensor, up to the order of float32 sums: a hundredth of the change by training."""
    run = find_run(f"{TINY}:softmax")
    stage = run.stages[0].model_copy(update={"schedule": Schedule(**SCHEDULES[kind])})
    run = run.model_copy(update={"stages": [stage]})
    output = tmp_path / "checkpoint.pt"
    run_stage(StageJob(run, "train", dataset_files(run.dataset), output, init=None), devices=0, workers=0)
    ours, theirs = load(output)["model"], reference(run, kind)
    before = build_detector(run, read_training_data(run, dataset_files(run.dataset))[1]).state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if value.is_floating_point():
            change = (value - before[name]).norm()
            assert (ours[name] - value).norm() <= 0.01 * change, name
