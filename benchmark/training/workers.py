"""A training step as in the release: each worker has its images, losses and draws, and the step is their
mean.

The mean of a loss, the active groups of categories, the draws and the padded size of images depend on the
images of one worker. So one process with all workers, two processes with half of them each, and several
processes that share one worker give the same losses and gradients, up to the order of float32 sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmark.classifiers import Classifier
from benchmark.detectors import TrainingPass, classifier_losses, mean_losses, weighted
from benchmark.detectors.boxes import padded
from benchmark.processes import Team, sum_over_processes
from benchmark.sampling import seeded
from benchmark.seeds import derive_seed
from benchmark.training.errors import TrainingError

Forward = Callable[[], TrainingPass]


@dataclass(frozen=True)
class Part:
    """The part of one worker that a process has: the number of the worker in the step, and the slice of the
    process's images."""

    worker: int
    images: slice


class Workers:
    """The distribution of the images of a step over workers and processes.

    Args:
        batch_size: images of the step over all processes.
        images_per_worker: images of each worker in the release; None, or more than the batch, for the whole
            batch.
        rank: this process.
        world_size: number of processes.
        where: location for error messages.

    Raises:
        TrainingError: the batch, workers and processes do not fit evenly into each other.
    """

    def __init__(
        self,
        batch_size: int,
        images_per_worker: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        where: str | None = None,
    ) -> None:
        self.batch_size, self.size = batch_size, min(images_per_worker or batch_size, batch_size)
        own = batch_size // world_size
        uneven = batch_size % world_size or batch_size % self.size or (own % self.size and self.size % own)
        if uneven:
            raise TrainingError(
                "the batch cannot be dealt evenly to the workers and processes",
                where=where,
                found=f"batch of {batch_size} images, {self.size} for each worker, {world_size} processes",
                remedy="choose a number of devices so that one has whole workers, or several share one",
            )
        self.team = Team(max(1, self.size // own))
        first, step = rank * own // self.size, min(self.size, own)
        self.parts = [
            Part(first + number, slice(start, start + step))
            for number, start in enumerate(range(0, own, step))
        ]

    def positions(self, part: Part, iteration: int) -> range:
        """Positions in the stream of all images of a worker."""
        start = iteration * self.batch_size + part.worker * self.size
        return range(start, start + self.size)

    def canvas(self, images: Sequence[Tensor]) -> tuple[int, int]:
        """Height and width that hold all images of the worker to which the given images belong."""
        height, width = self.team.largest([max(image.shape[side] for image in images) for side in (1, 2)])
        return padded((height, width))


class Gradients:
    """Computes the losses of workers and adds their gradients to those of the parameters.

    First computes the gradient of the classifiers' losses with respect to the logits of all images of the
    worker, then backpropagates through each of the passes that gave the logits. If there are several passes,
    all of them run once without gradient and then again with it.

    Args:
        fabric: runs backward passes.
        module: the module that passes call, set up with ``fabric``.
        classifiers: one for each head.
        workers: the distribution of the images.
        weights: loss weights of a cascade's heads.
        seed: seed of the draws in the classifiers' losses.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: Any,
        classifiers: nn.ModuleList,
        workers: Workers,
        weights: Sequence[float],
        seed: int,
    ) -> None:
        self._fabric, self._module, self._classifiers = fabric, module, classifiers
        self._workers, self._weights, self._seed = workers, weights, seed

    def add(self, iteration: int, part: Part, passes: Sequence[Forward]) -> dict[str, Tensor]:
        """Add the gradients of a worker's part of the step; returns its losses, detached.

        ``passes`` are those over the images of this process, in order.
        """
        last = part is self._workers.parts[-1]
        live = None
        if len(passes) > 1:
            with torch.no_grad():
                seen = [forward() for forward in passes]
        else:
            live = self._run(passes[0], synchronise=last)
            seen = [live]
        losses, slopes = self._classified(iteration, part.worker, seen)
        counts = self._team_sums([found.counts for found in seen])
        sums = self._team_sums([found.sums for found in seen])
        losses |= mean_losses([TrainingPass([], [], sums, counts)])
        # so that the mean over the processes is the mean over the workers
        share = self._workers.team.size / len(self._workers.parts)
        for number, forward in enumerate(passes):
            synchronise = last and number == len(passes) - 1
            with self._fabric.no_backward_sync(self._module, enabled=not synchronise):
                found = live or forward()
                others = mean_losses([found._replace(counts=counts)])
                terms = list(weighted(others, self._weights).values())
                terms += [(z * slope[number]).sum() for z, slope in zip(found.logits, slopes, strict=True)]
                self._fabric.backward(torch.stack(terms).sum() * share)
        return {name: value.detach() for name, value in weighted(losses, self._weights).items()}

    def finish_step(self) -> None:
        """Add the amounts of all workers' losses to the classifiers' state."""
        for classifier in self._classifiers:
            cast(Classifier, classifier).finish_step(self._sum_over_workers)

    def _sum_over_workers(self, value: Tensor) -> Tensor:
        # every process of a team has computed the losses of its worker
        return sum_over_processes(value) / self._workers.team.size

    def _run(self, forward: Forward, *, synchronise: bool) -> TrainingPass:
        with self._fabric.no_backward_sync(self._module, enabled=not synchronise):
            return forward()

    def _classified(
        self, iteration: int, worker: int, seen: Sequence[TrainingPass]
    ) -> tuple[dict[str, Tensor], list[tuple[Tensor, ...]]]:
        """Unweighted losses of the classifiers, and for each head their weighted gradients with respect to
        the logits of each pass."""
        team = self._workers.team
        logits, labels, own = [], [], []
        for number in range(len(self._classifiers)):
            z = torch.cat([found.logits[number] for found in seen])
            everybody = team.gathered(z)
            before = sum(len(item) for item in everybody[: team.rank])
            logits.append(torch.cat(everybody).requires_grad_())
            labels.append(torch.cat(team.gathered(torch.cat([found.labels[number] for found in seen]))))
            own.append((before, [len(found.logits[number]) for found in seen]))
        with seeded(derive_seed(self._seed, "classifier loss", iteration, worker)), torch.enable_grad():
            losses = classifier_losses(self._classifiers, logits, labels)
        total = torch.stack(list(weighted(losses, self._weights).values())).sum()
        slopes = torch.autograd.grad(total, logits, materialize_grads=True)
        parts = [
            slope[before : before + sum(counts)].split(counts)
            for slope, (before, counts) in zip(slopes, own, strict=True)
        ]
        return losses, parts

    def _team_sums(self, values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Sums over all passes of the team, by name."""
        names = list(values[0])
        if not names:
            return {}
        own = torch.stack([torch.stack([found[name] for name in names]) for found in values]).sum(dim=0)
        return dict(zip(names, self._workers.team.summed(own), strict=True))
