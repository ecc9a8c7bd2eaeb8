"""The training loop: any detector, all of it or only its classifier."""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmark.classifiers import Classifier
from benchmark.detectors import ChooseRoIs, Detector, RoIBatch, checkpoints, stage_losses
from benchmark.images import Sample, Target, TrainImages, load
from benchmark.processes import average, over_processes, sum_over_processes
from benchmark.recipes import load_object
from benchmark.recipes.models import Run, Sampler, Stage
from benchmark.sampling import CategoryStream, ImageStream, PairedBatches, StreamBatches, seeded
from benchmark.seeds import derive_seed
from benchmark.training.errors import TrainingDivergedError, TrainingError, TrainingInterruptedError
from benchmark.training.meta import MetaTraining
from benchmark.training.optimisation import Plan, build_optimizer, plan
from benchmark.training.progress import TrainingLog
from benchmark.training.resume import ResumeFolder
from benchmark.training.samplers import image_stream

DIVERGED = 100.0  # times the first loss (at least 1): far beyond any fluctuation of a training that works
DIVERGED_REMEDY = "lower the learning rate, lengthen the warm-up or clip the gradients"


class _ClassifierLosses(nn.Module):
    """Losses of the classifiers on their RoI features, as one module for data-parallel wrappers."""

    def __init__(self, classifiers: nn.ModuleList) -> None:
        super().__init__()
        self.classifiers = classifiers

    def forward(self, features: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
        classifiers = [cast(Classifier, classifier) for classifier in self.classifiers]
        return stage_losses(
            [
                over_processes(classifier.loss(classifier(x).float(), y), len(y))
                for classifier, x, y in zip(classifiers, features, labels, strict=True)
            ]
        )


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
) -> dict[str, float | int | str]:
    """Train a stage to its end, from the newest checkpoint of ``resume`` if there is one.

    Several processes share the batch. Losses and weights are those of one process up to the order of float32
    sums: what is drawn for an image depends on its position in the stream alone, and means are over all
    processes. What each process takes of its own images are batch norm that trains, random draws in a
    classifier's loss, what that normalises by other numbers than that of RoIs, a method's choice of RoIs, the
    size that images of different sizes are padded to, and all draws and means of back end mmdet.

    On the same CPU, with the same number of threads and processes, an interrupted and resumed training ends
    in the same weights, bit for bit, as an uninterrupted one: all draws depend on (seed, iteration) alone.

    Returns:
        Facts for the record: lengths, batch size, learning rate and its scale.

    Raises:
        TrainingDivergedError: the loss is not finite or 100 times the first one.
        TrainingInterruptedError: SIGTERM or SIGINT; the state is saved.
    """
    assert stage.schedule is not None
    seed = derive_seed(run.seed, "training", run.dataset_name, stage.name)
    stream = image_stream(stage.sampler or Sampler(), data, seed, run.plugin_path)
    schedule = plan(stage.schedule, stream.epoch_length)
    if schedule.batch_size % fabric.world_size:
        raise TrainingError(
            "the batch cannot be dealt evenly to the processes",
            where=f"stage {stage.name}",
            found=f"batch of {schedule.batch_size} images, {fabric.world_size} processes",
            remedy="choose a number of devices that divides the batch size",
        )
    only_classifier = stage.trainable == "classifier"
    if only_classifier:
        _freeze_all_but_classifiers(detector)
    else:
        detector.train()
    trained = detector.classifiers if only_classifier else detector
    newest = fabric.broadcast(resume.newest() if fabric.is_global_zero else None)
    state = None if newest is None else checkpoints.load(newest)
    first = 0
    if state is not None:
        trained.load_state_dict(state["model"])
        first = state["iteration"]

    step = _ClassifierLosses(detector.classifiers) if only_classifier else detector
    detector.to(fabric.device)
    if fabric.device.type == "cuda":  # the layout that convolutions in bfloat16 are fast in
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(trained, stage.schedule)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    meta = MetaTraining(fabric, run, stage, detector, optimizer) if stage.meta else None
    if state is not None and meta is not None:
        meta.load_state_dict(state["meta"])
    module, optimizer = fabric.setup(step, optimizer)

    def batches_of(stream: ImageStream) -> StreamBatches:
        lengths = (schedule.batch_size, first, schedule.iterations)
        return StreamBatches(stream, *lengths, fabric.global_rank, fabric.world_size)

    dealt = batches_of(stream)
    batches: StreamBatches | PairedBatches = dealt
    share = schedule.batch_size // fabric.world_size
    if stage.meta is not None:
        meta_stream = image_stream(
            stage.meta.sampler, data, derive_seed(seed, "meta images"), run.plugin_path
        )
        batches = PairedBatches(dealt, batches_of(meta_stream))
    choice = _Choice(stage, run, data, seed) if stage.rois else None
    loader = load(
        data,
        batch_sampler=batches,
        collate_fn=list,
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),  # the loader's own draw must not touch the default generator
    )

    def save(iteration: int) -> None:
        if fabric.is_global_zero:
            content = {
                "model": trained.state_dict(),
                "optimizer": optimizer.state_dict(),
                "iteration": iteration,
                "limit": limit,
            } | ({} if meta is None else {"meta": meta.state_dict()})
            resume.save(iteration, content)

    title = f"{run.title} {stage.name}"
    limit = math.inf if state is None else state.get("limit", math.inf)
    with (
        _signals() as stop,
        TrainingLog(log_path, title, first, schedule.iterations, active=fabric.is_global_zero) as log,
    ):
        for iteration, samples in enumerate(loader, start=first):
            rate = schedule.learning_rate(iteration)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with seeded(derive_seed(seed, "step", iteration, fabric.global_rank)):
                if only_classifier:
                    choose = choice.of(dealt.positions(iteration), fabric.device) if choice else None
                    losses, measured = _retrain(
                        fabric, detector, module, samples[:share], choose, meta, samples[share:]
                    )
                else:
                    losses, measured = module(*_on_device(fabric, samples)), {}
            total = torch.stack(list(losses.values())).sum()
            value, stopping = _agreed(total, bool(stop))
            if not math.isfinite(value) or value > limit:
                raise _diverged(stage, iteration, losses, rate, limit)
            if iteration == 0:
                limit = DIVERGED * max(1.0, value)
            for classifier in detector.classifiers:
                cast(Classifier, classifier).finish_step(sum_over_processes)
            optimizer.zero_grad()
            fabric.backward(total)
            if stage.schedule.clip_norm is not None:
                norm = fabric.clip_gradients(
                    module, optimizer, max_norm=stage.schedule.clip_norm, error_if_nonfinite=False
                )
                if norm is not None and not norm.isfinite():
                    raise _diverged(stage, iteration, losses | {"gradient norm": norm}, rate, limit)
            optimizer.step()
            log.step(iteration, losses, rate, schedule.batch_size, measured)
            done = iteration + 1
            if stopping:
                save(done)
                fabric.barrier()  # no process ends while the first still writes
                cause = stop[0] if stop else "a signal to another process"
                raise TrainingInterruptedError(
                    f"stopped by {cause} after iteration {done} of {schedule.iterations}",
                    remedy="run the same command again: it continues here",
                )
            if done % stage.schedule.checkpoint_every == 0 and done < schedule.iterations:
                save(done)
    broken = [name for name, value in trained.state_dict().items() if not value.isfinite().all()]
    if broken:  # by the last steps, which no later loss answers for
        raise TrainingDivergedError(
            f"the weights diverged before iteration {schedule.iterations}",
            where=f"stage {stage.name}, {broken[0]}" + (f" and {len(broken) - 1} more" if broken[1:] else ""),
            expected="finite weights",
            remedy=DIVERGED_REMEDY,
        )
    return _facts(schedule, fabric, first)


class _Choice:
    """A method's choice among the sampled RoIs, given the category that each image was drawn for."""

    def __init__(self, stage: Stage, run: Run, data: TrainImages, seed: int) -> None:
        # a stream of its own: the loader's runs ahead
        stream = image_stream(stage.sampler or Sampler(), data, seed, run.plugin_path)
        if not isinstance(stream, CategoryStream):
            raise TrainingError(
                "RoIs are chosen by the category that an image was drawn for",
                where=f"stage {stage.name}",
                found=f"sampler {stage.sampler.kind if stage.sampler else 'uniform'}",
                expected="a sampler that draws images for categories: one that makes a CategoryStream",
            )
        self._stream = stream
        self._function = load_object(stage.rois or "", run.plugin_path)
        self._num_classes = len(data.label_of)

    def of(self, positions: range, device: torch.device) -> ChooseRoIs:
        """The choice for the images at ``positions`` of the stream."""
        drawn = torch.tensor([self._stream.label(position) for position in positions], device=device)
        return partial(self._function, drawn=drawn, num_classes=self._num_classes)


def _on_device(fabric: Fabric, samples: list[Sample]) -> tuple[list[Tensor], list[Target]]:
    images = [sample.image.to(fabric.device, non_blocking=True) for sample in samples]
    return images, [sample.target.to(fabric.device) for sample in samples if sample.target is not None]


def _retrain(
    fabric: Fabric,
    detector: Detector,
    module: nn.Module,
    samples: list[Sample],
    choose: ChooseRoIs | None,
    meta: MetaTraining | None,
    meta_samples: list[Sample],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses of the classifier alone, after the method's meta step if it has one, and what that reports."""

    def rois_of(some: list[Sample], choose: ChooseRoIs | None = None) -> list[RoIBatch]:
        with fabric.autocast():
            return detector.box_features(*_on_device(fabric, some), choose)

    rois, measured = rois_of(samples, choose), {}
    if meta is not None:
        measured = meta.step(rois, rois_of(meta_samples))
        if meta.resample_rois:
            rois = rois_of([_drawn_anew(sample) for sample in samples], choose)
    losses: dict[str, Tensor] = module([stage.features for stage in rois], [stage.labels for stage in rois])
    return losses, measured


def _drawn_anew(sample: Sample) -> Sample:
    """The same image with other draws of RoIs."""
    assert sample.target is not None
    assert sample.target.seed is not None
    target = replace(sample.target, seed=derive_seed(sample.target.seed, "anew"))
    return replace(sample, target=target)


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


def _diverged(
    stage: Stage, iteration: int, losses: dict[str, Tensor], rate: float, limit: float
) -> TrainingDivergedError:
    parts = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in losses.items())
    return TrainingDivergedError(
        f"the loss diverged at iteration {iteration}",
        where=f"stage {stage.name}, learning rate {rate:.3g}",
        found=parts,
        expected=f"finite losses with a sum below {limit:.4g}, and finite gradients",
        remedy=DIVERGED_REMEDY,
    )


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
