"""The state of a loss changes only between steps, by the sum over all workers of all processes."""

import torch
from helpers import statistics_of
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier, RunningSum


class Counting(CategoricalClassifier):
    """Counts the labels of its losses."""

    def __init__(self) -> None:
        super().__init__(2, statistics_of([5, 9]))
        self.seen = RunningSum(3)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.seen.add(labels.bincount(minlength=3))
        return super().loss(logits, labels)


def one_worker(value: Tensor) -> Tensor:
    return value


def test_workers_of_a_step_read_the_same_state_and_add_up() -> None:
    classifier = Counting()
    for labels in ([0, 2], [2, 2, 1]):
        classifier.loss(torch.zeros(len(labels), 3), torch.tensor(labels))
        assert classifier.seen.value.tolist() == [0, 0, 0]
    classifier.finish_step(one_worker)
    assert classifier.seen.value.tolist() == [1, 1, 3]
    classifier.finish_step(one_worker)
    assert classifier.seen.value.tolist() == [1, 1, 3]


def test_every_process_gets_the_sum_of_all() -> None:
    """The other process had three RoIs of category 1, even if this one had none."""
    classifier = Counting()
    other = torch.tensor([0.0, 3.0, 0.0])
    classifier.loss(torch.zeros(1, 3), torch.tensor([0]))
    classifier.finish_step(lambda value: value + other)
    classifier.finish_step(lambda value: value + other)
    assert classifier.seen.value.tolist() == [1, 6, 0]


def test_only_finished_steps_are_saved() -> None:
    classifier = Counting()
    classifier.loss(torch.zeros(1, 3), torch.tensor([0]))
    assert [name for name, _ in classifier.named_buffers()] == ["seen.value"]
    assert classifier.state_dict()["seen.value"].tolist() == [0, 0, 0]
    classifier.finish_step(one_worker)
    restored = Counting()
    restored.load_state_dict(classifier.state_dict())
    assert restored.seen.value.tolist() == [1, 0, 0]


def test_no_gradient_flows_through_the_state() -> None:
    total = RunningSum(2)
    amount = torch.ones(2, requires_grad=True)
    total.add(amount * 2)
    total.finish_step(one_worker)
    assert total.value.tolist() == [2, 2]
    assert not total.value.requires_grad
