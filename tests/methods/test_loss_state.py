"""Losses with state: two processes give the same state as one process with two workers."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import statistics_of
from torch import Tensor, distributed, multiprocessing, nn

from benchmark.classifiers import Classifier
from benchmark.processes import sum_over_processes
from benchmark.recipes import load_object
from benchmark.recipes.plugins import find_plugins

METHODS = ["eqlv2", "seesaw", "rog", "bacl", "loce"]
COUNTS, FEATURES, STEPS = [1, 8, 30, 400], 6, 4
ROWS = (24, 16)  # of the two workers
CLOSE = 1e-9


def classifier_of(method: str) -> Classifier:
    plugin = find_plugins([])[method]
    torch.manual_seed(0)
    kind = load_object(plugin.method.classifier, str(plugin.folder))
    classifier: Classifier = kind(FEATURES, statistics_of(COUNTS), **plugin.method.options)
    return classifier.double()


def batch(step: int, worker: int) -> tuple[Tensor, Tensor]:
    """Features and labels of a worker's RoIs: none of category 0; of category 1 on the first worker only."""
    generator = torch.Generator().manual_seed(10 * step + worker)
    labels = torch.randint(worker + 1, len(COUNTS) + 1, (ROWS[worker],), generator=generator)
    return 3 * torch.randn(ROWS[worker], FEATURES, generator=generator, dtype=torch.float64), labels


class Losses(nn.Module):
    """Wrapped like classifiers in the training loop."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        losses = self.classifier.loss(self.classifier(features), labels)
        return torch.stack(list(losses.values())).sum()


def trained(method: str, rank: int | None) -> dict[str, Any]:
    """Losses of every step and the final state, for both workers or only for process ``rank``."""
    classifier = classifier_of(method)
    module: nn.Module = Losses(classifier)
    if rank is not None:
        module = nn.parallel.DistributedDataParallel(module)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.05)
    losses = []
    for step in range(STEPS):
        workers = (0, 1) if rank is None else (rank,)
        own = [module(*batch(step, worker)) for worker in workers]
        classifier.finish_step(sum_over_processes)
        total = torch.stack(own).mean()
        losses.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return {"losses": losses, "state": classifier.state_dict()}


def process(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.save({method: trained(method, rank) for method in METHODS}, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of two processes by method."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(process, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_keep_the_state_of_one_with_two_workers(
    method: str, of_two: list[dict[str, Any]]
) -> None:
    one, first, second = trained(method, None), of_two[0][method], of_two[1][method]
    means = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert means == pytest.approx(one["losses"], rel=CLOSE)
    sums = [name for name in one["state"] if name.endswith(".value")]
    assert sums
    for name, value in one["state"].items():
        for other in (first, second):
            torch.testing.assert_close(other["state"][name], value, rtol=CLOSE, atol=CLOSE)
    assert all(one["state"][name].any() for name in sums)


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_training_continues_with_its_state(method: str) -> None:
    """The loss of later steps, or its gradient, depends on it."""
    classifier, other = classifier_of(method), classifier_of(method)
    for step in range(2):
        classifier.loss(classifier(batch(step, 0)[0]), batch(step, 0)[1])
        classifier.finish_step(sum_over_processes)
    features, labels = batch(2, 1)

    def loss_and_gradient(of: Classifier) -> list[float]:
        logits = of(features)
        loss = torch.stack(list(of.loss(logits, labels).values())).sum()
        return [loss.item(), *torch.autograd.grad(loss, logits)[0].flatten().tolist()]

    assert loss_and_gradient(other) != loss_and_gradient(classifier)
    other.load_state_dict(classifier.state_dict())
    assert loss_and_gradient(other) == loss_and_gradient(classifier)
