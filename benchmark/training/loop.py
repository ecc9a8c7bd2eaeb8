"""The training loop: any detector, all of it or only its classifier."""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from lightning_fabric import Fabric
from torch import Tensor

from benchmark.detectors import CASCADE_WEIGHTS, Detector, checkpoints
from benchmark.images import Sample, TrainImages, load
from benchmark.processes import average
from benchmark.recipes.models import Run, Sampler, Stage
from benchmark.sampling import ImageStream, PairedBatches, StreamBatches
from benchmark.seeds import derive_seed
from benchmark.training.errors import TrainingDivergedError, TrainingError, TrainingInterruptedError
from benchmark.training.meta import MetaTraining
from benchmark.training.optimisation import Plan, build_optimizer, plan
from benchmark.training.passes import Choice, Logits, Retraining, WholeDetector
from benchmark.training.progress import TrainingLog
from benchmark.training.resume import ResumeFolder
from benchmark.training.samplers import grouped, image_stream
from benchmark.training.workers import Gradients, Workers

DIVERGED = 100.0  # times the first loss (at least 1): far beyond any fluctuation of a training that works
DIVERGED_REMEDY = "lower the learning rate, lengthen the warm-up or clip the gradients"


def train(
    fabric: Fabric,
    detector: Detector,
    data: TrainImages,
    run: Run,
    stage: Stage,
    *,
    resume: ResumeFolder,
    log_path: Path,
    workers: int,
    images_at_once: int | None = None,
) -> dict[str, float | int | str]:
    """Train a stage to its end, from the newest checkpoint of ``resume`` if there is one.

    A step is the mean over the workers of the release (``benchmark.training.workers``): losses and weights
    are the same, up to the order of float32 sums, whatever the number of processes and of images at once.
    Only batch norm that trains takes its statistics from the images of a pass.

    On the same CPU, with the same number of threads and processes, an interrupted and resumed training ends
    in the same weights, bit for bit, as an uninterrupted one: all draws depend on (seed, iteration) alone.

    Args:
        fabric: launched.
        detector: with the weights that the stage starts from.
        data: training images.
        run: the recipe.
        stage: one of its stages.
        resume: checkpoints of this training.
        log_path: ``progress.jsonl``.
        workers: data loading processes.
        images_at_once: a pass with gradients is over at most so many images of a worker; None for all.

    Returns:
        Facts for the record: lengths, batch size, learning rate and its scale.

    Raises:
        TrainingError: images cannot be dealt like this.
        TrainingDivergedError: the loss is not finite or 100 times the first one.
        TrainingInterruptedError: SIGTERM or SIGINT; the state is saved.
    """
    training = _Training(fabric, detector, data, run, stage, resume, images_at_once)
    first, last = training.first, training.schedule.iterations
    title, active = f"{run.title} {stage.name}", fabric.is_global_zero
    with _signals() as stop, TrainingLog(log_path, title, first, last, active=active) as log:
        for iteration, samples in enumerate(training.batches(workers), start=first):
            losses, measured, stopping = training.step(iteration, samples, stop)
            rate = training.schedule.learning_rate(iteration)
            log.step(iteration, losses, rate, training.schedule.batch_size, measured)
            done = iteration + 1
            if stopping:
                training.save(done)
                fabric.barrier()  # no process ends while the first still writes
                cause = stop[0] if stop else "a signal to another process"
                raise TrainingInterruptedError(
                    f"stopped by {cause} after iteration {done} of {last}",
                    remedy="run the same command again: it continues here",
                )
            if done % training.checkpoint_every == 0 and done < last:
                training.save(done)
    training.check_weights()
    return _facts(training.schedule, fabric, first)


class _Training:
    """A stage's model, optimiser and images, at its first iteration or that of its newest checkpoint."""

    def __init__(
        self,
        fabric: Fabric,
        detector: Detector,
        data: TrainImages,
        run: Run,
        stage: Stage,
        resume: ResumeFolder,
        images_at_once: int | None,
    ) -> None:
        assert stage.schedule is not None
        self._fabric, self._data, self._stage, self._resume = fabric, data, stage, resume
        self._seed = derive_seed(run.seed, "training", stage.name)
        self._plugin_path = run.plugin_path
        self._clip_norm, self.checkpoint_every = stage.schedule.clip_norm, stage.schedule.checkpoint_every
        self.schedule = plan(stage.schedule, self._stream(stage.sampler, self._seed).epoch_length)
        self._workers = Workers(
            self.schedule.batch_size,
            stage.images_per_worker,
            fabric.global_rank,
            fabric.world_size,
            where=f"stage {stage.name}",
        )
        only_classifier = stage.trainable == "classifier"
        if only_classifier:
            _freeze_all_but_classifiers(detector)
        else:
            detector.train()
            _check_at_once(images_at_once, self._workers, run, stage)
        self._trained = detector.classifiers if only_classifier else detector
        newest = fabric.broadcast(resume.newest() if fabric.is_global_zero else None)
        state = {} if newest is None else checkpoints.load(newest)
        self.first, self._limit = state.get("iteration", 0), state.get("limit", math.inf)
        if state:
            self._trained.load_state_dict(state["model"])
        detector.to(fabric.device)
        if fabric.device.type == "cuda":  # the layout that convolutions in bfloat16 are fast in
            detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(self._trained, stage.schedule)
        if state:
            optimizer.load_state_dict(state["optimizer"])
        self._meta = None
        if stage.meta is not None:
            self._meta = MetaTraining(fabric, run, stage, detector, optimizer, self._workers.team)
            if state:
                self._meta.load_state_dict(state["meta"])
        step = Logits(detector.classifiers) if only_classifier else detector
        self._module, self._optimizer = fabric.setup(step, optimizer)
        weights = stage.cascade_weights or CASCADE_WEIGHTS[run.detector.cascade]
        self._gradients = Gradients(
            fabric, self._module, detector.classifiers, self._workers, weights, self._seed
        )
        self._passes: WholeDetector | Retraining
        if only_classifier:
            choice = self._choice(run) if stage.rois else None
            self._passes = Retraining(fabric, self._module, detector, self._workers, self._meta, choice)
        else:
            self._passes = WholeDetector(fabric, self._module, self._workers, images_at_once)

    def batches(self, workers: int) -> Iterator[list[Sample]]:
        """This process's images of every iteration, those of a meta step behind the others."""
        dealt = self._dealt(self._stage.sampler, self._seed)
        batches: StreamBatches | PairedBatches = dealt
        if self._stage.meta is not None:
            seed = derive_seed(self._seed, "meta images")
            batches = PairedBatches(dealt, self._dealt(self._stage.meta.sampler, seed))
        return load(
            self._data,
            batch_sampler=batches,
            collate_fn=list,
            num_workers=workers,
            pin_memory=self._fabric.device.type == "cuda",
            generator=torch.Generator(),  # the loader's own draw must not touch the default generator
        )

    def step(
        self, iteration: int, samples: list[Sample], stop: list[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
        """The losses, what the method reports beside them, and whether some process was asked to stop."""
        rate = self.schedule.learning_rate(iteration)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        passes, measured = self._passes.of(iteration, samples)
        parts = zip(self._workers.parts, passes, strict=True)
        losses = _mean([self._gradients.add(iteration, part, own) for part, own in parts])
        value, stopping = _agreed(torch.stack(list(losses.values())).sum(), bool(stop))
        if not math.isfinite(value) or value > self._limit:
            raise self._diverged(iteration, losses)
        if iteration == 0:
            self._limit = DIVERGED * max(1.0, value)
        self._gradients.finish_step()
        if self._clip_norm is not None:
            norm = self._fabric.clip_gradients(
                self._module, self._optimizer, max_norm=self._clip_norm, error_if_nonfinite=False
            )
            if norm is not None and not norm.isfinite():
                raise self._diverged(iteration, losses | {"gradient norm": norm})
        self._optimizer.step()
        return losses, measured, stopping

    def save(self, iteration: int) -> None:
        """Write a checkpoint to resume from, before the 0-based iteration."""
        if self._fabric.is_global_zero:
            content = {
                "model": self._trained.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "iteration": iteration,
                "limit": self._limit,
            } | ({} if self._meta is None else {"meta": self._meta.state_dict()})
            self._resume.save(iteration, content)

    def check_weights(self) -> None:
        """Raises where the last steps, which no later loss answers for, broke a weight."""
        broken = [name for name, value in self._trained.state_dict().items() if not value.isfinite().all()]
        if broken:
            more = f" and {len(broken) - 1} more" if broken[1:] else ""
            raise TrainingDivergedError(
                f"the weights diverged before iteration {self.schedule.iterations}",
                where=f"stage {self._stage.name}, {broken[0]}{more}",
                expected="finite weights",
                remedy=DIVERGED_REMEDY,
            )

    def _stream(self, sampler: Sampler | None, seed: int) -> ImageStream:
        return image_stream(sampler or Sampler(), self._data, seed, self._plugin_path)

    def _dealt(self, sampler: Sampler | None, seed: int) -> StreamBatches:
        stream = grouped(self._stream(sampler, seed), self._data, self._workers.size)
        lengths = (self.schedule.batch_size, self.first, self.schedule.iterations)
        return StreamBatches(stream, *lengths, self._fabric.global_rank, self._fabric.world_size)

    def _choice(self, run: Run) -> Choice:
        stream, classes = self._stream(self._stage.sampler, self._seed), len(self._data.label_of)
        return Choice(self._stage, run, stream, classes, self._workers, self._seed)

    def _diverged(self, iteration: int, losses: dict[str, Tensor]) -> TrainingDivergedError:
        parts = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in losses.items())
        return TrainingDivergedError(
            f"the loss diverged at iteration {iteration}",
            where=f"stage {self._stage.name}, learning rate {self.schedule.learning_rate(iteration):.3g}",
            found=parts,
            expected=f"finite losses with a sum below {self._limit:.4g}, and finite gradients",
            remedy=DIVERGED_REMEDY,
        )


def _check_at_once(images_at_once: int | None, workers: Workers, run: Run, stage: Stage) -> None:
    """Batch norm that trains takes its statistics from a pass: fewer images would train another model."""
    images = workers.parts[0].images
    own = images.stop - images.start
    if images_at_once is not None and images_at_once < own and run.detector.norm == "batch":
        raise TrainingError(
            "batch norm that trains needs all images of a worker in one pass",
            where=f"stage {stage.name}",
            found=f"--images-at-once {images_at_once}, norm: batch",
            expected=f"--images-at-once {own} or more",
        )


def _mean(losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Over the workers."""
    return {name: torch.stack([item[name] for item in losses]).mean() for name in losses[0]}


def _freeze_all_but_classifiers(detector: Detector) -> None:
    """Only the classifiers keep gradients; all else is in evaluation mode, normalisation does not move.

    What a classifier has frozen itself stays so.
    """
    trained = set(detector.classifiers.parameters())
    for parameter in detector.parameters():
        if parameter not in trained:
            parameter.requires_grad_(False)
    detector.eval()
    detector.classifiers.train()


def _agreed(total: Tensor, stop: bool) -> tuple[float, bool]:
    """The mean loss over the processes, and whether one of them has been asked to stop, so that all do."""
    value, stops = average(torch.stack([total.detach().float(), total.new_tensor(float(stop))])).tolist()
    return value, stops > 0


def _facts(schedule: Plan, fabric: Fabric, first: int) -> dict[str, float | int | str]:
    device = torch.cuda.get_device_name() if fabric.device.type == "cuda" else "cpu"
    return {
        "iterations": schedule.iterations,
        "resumed_at": first,
        "batch_size": schedule.batch_size,
        "learning_rate": schedule.base_rate,
        "learning_rate_scale": schedule.scale,
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
        "device": device,
        "tf32": torch.backends.cudnn.allow_tf32,
    }


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Collect the name of a SIGTERM or SIGINT instead of dying from it."""
    received: list[str] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number).name)

    old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
