"""The training loop: one pass over the images for all learners."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric

from benchmark.processes import average
from benchmark.training.errors import TrainingDivergedError, TrainingInterruptedError
from benchmark.training.learners import Learner
from benchmark.training.passes import ImagePass
from benchmark.training.progress import ProgressBar

Ended = tuple[Learner, Exception | None]
"""A learner, and the error that ended it before its last iteration, or None."""


def train(
    fabric: Fabric, images: ImagePass, learners: Sequence[Learner], *, title: str, workers: int
) -> Iterator[Ended]:
    """Train each learner to its end, from its newest checkpoint if there is one, and yield it when it ends.

    A step is the mean over the workers of the release (``benchmark.training.workers``): losses and weights
    are the same, up to the order of float32 sums, for any number of processes and of images at once. Only
    trained batch norm depends on them, because it uses the statistics of a pass.

    On the same CPU, with the same number of threads and processes, a training ends with the same weights, bit
    for bit, even if it was interrupted and resumed or if other learners share the pass: all draws depend only
    on (seed, iteration).

    If one of several learners fails, it is yielded with its error and the others continue. The error of the
    only learner is raised, and so is an error that other processes may not have had.

    Args:
        fabric: launched.
        images: the images of all learners.
        learners: at the iterations of their checkpoints, which may differ.
        title: title of the progress bar.
        workers: data loading processes.

    Raises:
        TrainingDivergedError: the loss is not finite or 100 times the first one.
        TrainingInterruptedError: SIGTERM or SIGINT; the state of every learner is saved.
    """
    group = _Group(fabric, learners)
    first, last = min(learner.first for learner in learners), max(learner.last for learner in learners)
    with _signals() as stop, ProgressBar(title, first, last, active=fabric.is_global_zero) as bar:
        for batch in images.batches(first, last, workers):
            active = [learner for learner in group.going if learner.first <= batch.iteration < learner.last]
            yield from group.each(Learner.differentiate, active, repeat((batch,)))
            totals, stopping = _agreed([learner.total_loss for learner in active], bool(stop), fabric)
            yield from group.each(Learner.update, active, zip(totals, strict=True))
            bar.show(batch.iteration + 1, [learner.report() for learner in active])
            ending = [learner for learner in active if learner.done == learner.last]
            yield from group.each(Learner.check_weights, ending)
            for learner in ending:
                group.going.remove(learner)
                yield learner, None
            if not group.going:
                return
            active = [learner for learner in active if learner in group.going]
            if stopping:
                _interrupt(fabric, active, batch.iteration + 1, last, stop)
            yield from group.each(Learner.save_if_due, active)


class _Group:
    """The learners of one pass; ``going`` are those that have neither ended nor failed."""

    def __init__(self, fabric: Fabric, learners: Sequence[Learner]) -> None:
        self.going = list(learners)
        self._several = len(learners) > 1
        self._one_process = fabric.world_size == 1

    def each(
        self,
        action: Callable[..., None],
        active: list[Learner],
        arguments: Iterable[tuple[Any, ...]] = repeat(()),
    ) -> Iterator[Ended]:
        """Call ``action`` for each active learner; one that fails is removed and yielded with its error.

        Raises the error of the only learner, and an error that other processes may not have had.
        """
        for learner, own in list(zip(active, arguments, strict=False)):
            try:
                action(learner, *own)
            except Exception as error:
                in_all_processes = self._one_process or isinstance(error, TrainingDivergedError)
                if not self._several or not in_all_processes:
                    raise
                active.remove(learner)
                self.going.remove(learner)
                yield learner, error


def _agreed(totals: list[torch.Tensor], stop: bool, fabric: Fabric) -> tuple[list[float], bool]:
    """The mean losses over the processes, and whether any process has been asked to stop."""
    flag = torch.tensor(float(stop), device=fabric.device)
    *values, stops = average(torch.stack([*(total.detach().float() for total in totals), flag])).tolist()
    return values, stops > 0


def _interrupt(fabric: Fabric, active: Sequence[Learner], done: int, last: int, stop: list[str]) -> None:
    for learner in active:
        learner.save()
    fabric.barrier()  # no process ends while the first one is still writing
    cause = stop[0] if stop else "a signal to another process"
    raise TrainingInterruptedError(
        f"stopped by {cause} after iteration {done} of {last}",
        remedy="run the same command again: it continues here",
    )


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Collect the names of SIGTERM and SIGINT signals instead of ending the process."""
    received: list[str] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number).name)

    old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
