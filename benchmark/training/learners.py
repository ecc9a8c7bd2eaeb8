"""Models that train in a pass over the images: a whole detector, or a classifier on the features of a frozen
one."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from benchmark.detectors import CASCADE_WEIGHTS, Detector, checkpoints
from benchmark.recipes.models import Run, Stage
from benchmark.training.errors import TrainingDivergedError, TrainingError
from benchmark.training.meta import MetaTraining
from benchmark.training.optimisation import build_optimizer, plan
from benchmark.training.passes import (
    Batch,
    ImagePass,
    Logits,
    Retraining,
    RoIFeatures,
    WholeDetector,
    on_its_device,
)
from benchmark.training.progress import Line, TrainingLog
from benchmark.training.resume import ResumeFolder
from benchmark.training.workers import Gradients, Workers

DIVERGED = 100.0  # times the first loss (at least 1): far beyond the fluctuations of a working training
DIVERGED_REMEDY = "lower the learning rate, lengthen the warm-up or clip the gradients"


class Learner:
    """A stage's model with its optimiser, schedule, log and checkpoints.

    It starts at its first iteration, or at that of its newest checkpoint.

    If the stage trains only the classifier, everything else is frozen and in evaluation mode.

    Args:
        fabric: launched.
        images: the images of the stage.
        features: RoI features of those images if the stage trains only the classifier; else None.
        detector: the detector with the initial weights of the stage.
        run: the recipe.
        stage: one of its train stages.
        resume: checkpoints of this training.
        log_path: ``progress.jsonl``.
        images_at_once: largest number of a worker's images in one pass with gradients; None for all.

    Raises:
        TrainingError: this number of images at once would train a different model.
    """

    def __init__(
        self,
        fabric: Fabric,
        images: ImagePass,
        features: RoIFeatures | None,
        detector: Detector,
        run: Run,
        stage: Stage,
        *,
        resume: ResumeFolder,
        log_path: Path,
        images_at_once: int | None = None,
    ) -> None:
        assert stage.schedule is not None
        self.detector = detector
        self._fabric, self._stage, self._resume = fabric, stage, resume
        self._clip_norm, self._save_every = stage.schedule.clip_norm, stage.schedule.checkpoint_every
        self._schedule = plan(stage.schedule, images.epoch_length)
        self._trained = detector if features is None else detector.classifiers
        if features is None:
            detector.train()
            _check_at_once(images_at_once, images.workers, run, stage)
        else:
            _freeze_all_but_classifiers(detector)
        newest = fabric.broadcast(resume.newest() if fabric.is_global_zero else None)
        state = {} if newest is None else checkpoints.load(newest)
        self.first = self.done = state.get("iteration", 0)
        self.last = self._schedule.iterations
        self._limit = state.get("limit", math.inf)
        if state:
            self._trained.load_state_dict(state["model"])
        on_its_device(fabric, detector)
        optimizer = build_optimizer(self._trained, stage.schedule)
        if state:
            optimizer.load_state_dict(state["optimizer"])
        self._meta = None
        if stage.meta is not None:
            self._meta = MetaTraining(fabric, run, stage, detector, optimizer, images.workers.team)
            if state:
                self._meta.load_state_dict(state["meta"])
        step = detector if features is None else Logits(detector.classifiers)
        self._module, self._optimizer = fabric.setup(step, optimizer)
        weights = stage.cascade_weights or CASCADE_WEIGHTS[run.detector.cascade]
        self._workers = images.workers
        self._gradients = Gradients(
            fabric, self._module, detector.classifiers, images.workers, weights, images.seed
        )
        self._passes: WholeDetector | Retraining
        if features is None:
            self._passes = WholeDetector(fabric, self._module, images.workers, images_at_once)
        else:
            self._passes = Retraining(self._module, features, self._meta)
        self._losses: dict[str, Tensor] = {}
        self._measured: dict[str, Tensor] = {}
        self._log = TrainingLog(log_path, self.first, self.last, active=fabric.is_global_zero)

    @property
    def total_loss(self) -> Tensor:
        """The sum of this process's losses in the iteration that was differentiated last, a scalar."""
        return torch.stack(list(self._losses.values())).sum()

    def differentiate(self, batch: Batch) -> None:
        """Compute the losses of an iteration and their gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.learning_rate(batch.iteration)
        self._optimizer.zero_grad()
        passes, self._measured = self._passes.of(batch)
        parts = zip(self._workers.parts, passes, strict=True)
        self._losses = _mean([self._gradients.add(batch.iteration, part, own) for part, own in parts])

    def update(self, total: float) -> None:
        """Update the parameters with these gradients; ``total`` is the mean loss over the processes.

        Raises ``TrainingDivergedError`` instead if the loss or the gradients exceed all bounds.
        """
        if not math.isfinite(total) or total > self._limit:
            raise self._diverged(self._losses)
        if self.done == 0:
            self._limit = DIVERGED * max(1.0, total)
        self._gradients.finish_step()
        if self._clip_norm is not None:
            norm = self._fabric.clip_gradients(
                self._module, self._optimizer, max_norm=self._clip_norm, error_if_nonfinite=False
            )
            if norm is not None and not norm.isfinite():
                raise self._diverged(self._losses | {"gradient norm": norm})
        self._optimizer.step()
        self.done += 1

    def report(self) -> Line | None:
        """Add the last iteration to the log; returns the line of the log if one is written."""
        rate = self._schedule.learning_rate(self.done - 1)
        return self._log.step(self.done, self._losses, rate, self._schedule.batch_size, self._measured)

    def save_if_due(self) -> None:
        """Write a checkpoint to resume from, at the interval of the schedule."""
        if self.done % self._save_every == 0:
            self.save()

    def save(self) -> None:
        """Write a checkpoint to resume from."""
        if self._fabric.is_global_zero:
            content = {
                "model": self._trained.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "iteration": self.done,
                "limit": self._limit,
            } | ({} if self._meta is None else {"meta": self._meta.state_dict()})
            self._resume.save(self.done, content)

    def check_weights(self) -> None:
        """Raise if the last steps made a weight non-finite, which no later loss would show."""
        broken = [name for name, value in self._trained.state_dict().items() if not value.isfinite().all()]
        if broken:
            more = f" and {len(broken) - 1} more" if broken[1:] else ""
            raise TrainingDivergedError(
                f"the weights diverged before iteration {self.last}",
                where=f"stage {self._stage.name}, {broken[0]}{more}",
                expected="finite weights",
                remedy=DIVERGED_REMEDY,
            )

    def facts(self) -> dict[str, Any]:
        """Facts for the record: lengths, batch size, learning rate and its scale, device."""
        cuda = self._fabric.device.type == "cuda"
        return {
            "iterations": self.last,
            "resumed_at": self.first,
            "batch_size": self._schedule.batch_size,
            "learning_rate": self._schedule.base_rate,
            "learning_rate_scale": self._schedule.scale,
            "processes": self._fabric.world_size,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "tf32": torch.backends.cudnn.allow_tf32,
        }

    def _diverged(self, losses: dict[str, Tensor]) -> TrainingDivergedError:
        parts = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in losses.items())
        rate = self._schedule.learning_rate(self.done)
        return TrainingDivergedError(
            f"the loss diverged at iteration {self.done}",
            where=f"stage {self._stage.name}, learning rate {rate:.3g}",
            found=parts,
            expected=f"finite losses with a sum below {self._limit:.4g}, and finite gradients",
            remedy=DIVERGED_REMEDY,
        )


def _check_at_once(images_at_once: int | None, workers: Workers, run: Run, stage: Stage) -> None:
    """Trained batch norm uses the statistics of a pass, so fewer images at once would train a different
    model."""
    images = workers.parts[0].images
    own = images.stop - images.start
    if images_at_once is not None and images_at_once < own and run.detector.norm == "batch":
        raise TrainingError(
            "batch norm that trains needs all images of a worker in one pass",
            where=f"stage {stage.name}",
            found=f"--images-at-once {images_at_once}, norm: batch",
            expected=f"--images-at-once {own} or more",
        )


def _mean(losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean over the workers."""
    return {name: torch.stack([item[name] for item in losses]).mean() for name in losses[0]}


def _freeze_all_but_classifiers(detector: Detector) -> None:
    """Only the classifiers keep gradients; everything else, normalisation included, is in evaluation mode.

    Parameters that a classifier has frozen itself stay frozen.
    """
    trained = set(detector.classifiers.parameters())
    for parameter in detector.parameters():
        if parameter not in trained:
            parameter.requires_grad_(False)
    detector.eval()
    detector.classifiers.train()
