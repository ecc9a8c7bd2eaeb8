"""The loop with several learners: which iterations each takes, when each ends, and what a stop does."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.processes import fabric_of
from benchmark.training.errors import TrainingDivergedError, TrainingInterruptedError
from benchmark.training.loop import train
from benchmark.training.passes import Batch
from benchmark.training.progress import ProgressBar


class Recorder:
    """Replaces a learner: records the calls, and fails where the test asks for it."""

    def __init__(self, first: int, last: int, fails: tuple[str, int] | None = None) -> None:
        self.first = self.done = first
        self.last, self.fails = last, fails
        self.seen: list[int] = []
        self.told: list[float] = []
        self.saved: list[int] = []
        self.asked: list[int] = []
        self.checked = 0

    def _maybe_fail(self, where: str) -> None:
        if self.fails == (where, self.done):
            raise RuntimeError(f"{where} {self.done}")

    @property
    def total_loss(self) -> Tensor:
        return torch.tensor(self.done + 0.5, dtype=torch.float64)

    def differentiate(self, batch: Batch) -> None:
        assert batch.iteration == self.done
        self._maybe_fail("differentiate")
        self.seen.append(batch.iteration)

    def update(self, total: float) -> None:
        self._maybe_fail("update")
        self.told.append(total)
        self.done += 1

    def report(self) -> None:
        return None

    def check_weights(self) -> None:
        self.checked += 1
        if self.fails == ("check_weights", self.done):
            raise TrainingDivergedError("broken")

    def save_if_due(self) -> None:
        self.asked.append(self.done)

    def save(self) -> None:
        self.saved.append(self.done)


class Images:
    """Replaces a pass: batches without images, and a signal at one of them."""

    def __init__(self, signal_at: int | None = None) -> None:
        self.signal_at = signal_at
        self.given: list[int] = []
        self.asked: tuple[int, int, int] | None = None

    def batches(self, first: int, last: int, workers: int) -> Iterator[Any]:
        self.asked = (first, last, workers)
        for iteration in range(first, last):
            if iteration == self.signal_at:
                signal.raise_signal(signal.SIGTERM)
            self.given.append(iteration)
            yield Batch(iteration, [], [])


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the progress bar shows; learners are recorders."""
    monkeypatch.setattr("benchmark.training.loop.Learner", Recorder)
    told: list[int] = []
    monkeypatch.setattr(ProgressBar, "show", lambda _, done, lines: told.append(done))
    return told


def trained(images: Images, *learners: Recorder) -> list[tuple[int, Exception | None]]:
    ended = train(fabric_of(0), images, learners, title="", workers=3)  # type: ignore[arg-type]
    return [(learners.index(learner), error) for learner, error in ended]  # type: ignore[arg-type]


def test_each_takes_its_own_iterations_and_ends_with_its_last(shown: list[int]) -> None:
    images, learners = Images(), [Recorder(2, 4), Recorder(0, 5), Recorder(4, 6)]
    assert trained(images, *learners) == [(0, None), (1, None), (2, None)]
    assert images.asked == (0, 6, 3)
    assert images.given == [0, 1, 2, 3, 4, 5]
    assert shown == [1, 2, 3, 4, 5, 6]
    assert [learner.seen for learner in learners] == [[2, 3], [0, 1, 2, 3, 4], [4, 5]]
    assert learners[1].told == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert [learner.checked for learner in learners] == [1, 1, 1]
    assert [learner.asked for learner in learners] == [[3], [1, 2, 3, 4], [5]]  # not after the last one
    assert [learner.saved for learner in learners] == [[], [], []]


def test_the_pass_ends_with_the_last_learner() -> None:
    images = Images()
    failing = Recorder(0, 9, ("update", 1))
    (one, error), (two, none) = trained(images, failing, Recorder(0, 3))
    assert (one, two, none) == (0, 1, None)
    assert str(error) == "update 1"
    assert images.given == [0, 1, 2]


@pytest.mark.parametrize("where", ["differentiate", "update", "check_weights"])
def test_one_of_several_that_fails_is_given_back_and_the_others_go_on(where: str) -> None:
    last = 3
    failing, other = Recorder(0, last, (where, last if where == "check_weights" else 1)), Recorder(0, last)
    ended = trained(Images(), failing, other)
    assert [number for number, _ in ended] == [0, 1]
    assert isinstance(ended[0][1], TrainingDivergedError if where == "check_weights" else RuntimeError)
    assert ended[1][1] is None
    assert other.seen == [0, 1, 2]
    assert failing.seen == {"differentiate": [0], "update": [0, 1], "check_weights": [0, 1, 2]}[where]


def test_the_error_of_the_only_one_is_raised() -> None:
    with pytest.raises(RuntimeError, match="update 1"):
        trained(Images(), Recorder(0, 3, ("update", 1)))


def test_a_signal_ends_all_after_the_iteration_that_it_came_in() -> None:
    before = signal.getsignal(signal.SIGTERM)
    learners = Recorder(0, 5), Recorder(3, 5), Recorder(1, 5), Recorder(0, 3)
    with pytest.raises(TrainingInterruptedError, match=r"SIGTERM after iteration 3 of 5"):
        trained(Images(signal_at=2), *learners)
    assert [learner.saved for learner in learners] == [[3], [], [3], []]  # who has begun and not ended
    assert learners[0].asked == [1, 2]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_in_the_last_iteration_changes_nothing(tmp_path: Path) -> None:
    learner = Recorder(0, 3)
    assert trained(Images(signal_at=2), learner) == [(0, None)]
    assert learner.saved == []
