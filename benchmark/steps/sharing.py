"""Steps that look at the same images through equal detectors: one pass can make them all.

Retrainings share the features of a frozen detector on training images. Predictions whose detectors differ in
their classifiers, and in what follows these, share all that lies before on validation images.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from benchmark.recipes.paths import work_folder
from benchmark.steps.listing import INTERMEDIATES, PREDICT, RETRAIN, TRANSFORM
from benchmark.steps.step import DONE, Step, digest

PASS = replace(RETRAIN, name="shared_pass")
"""What a job for a shared pass asks for: as much as one for each of its steps. No step is of this kind."""


@dataclass(frozen=True)
class SharedPass:
    """Steps of an experiment that one pass over the images can make, at least two: all of them retrainings,
    or all of them predictions.

    The pass makes those that are not finished yet and leaves each finished one in the store, as if it had
    been made alone: its result, key and record are its own. Before predictions it carries out the transform
    stages that their checkpoints take; ``after`` is the pass that trains these, if one does.
    """

    steps: tuple[Step, ...]
    after: Self | None = None

    @property
    def key(self) -> str:
        """Changes with the steps that it could make, whether or not some are finished."""
        return digest(sorted(step.key for step in self.steps))

    @property
    def name(self) -> str:
        """shared_pass/KEY, as commands take it."""
        return f"{PASS.name}/{self.key}"

    @property
    def done(self) -> Path:
        """A stamp for Snakemake: it has been through the images once, and the records of its steps say what
        came of each. It goes when their jobs have run."""
        return work_folder() / PASS.name / f"{self.key}.{DONE}"

    @property
    def predicts(self) -> bool:
        """Whether it makes predictions."""
        return self.steps[0].kind is PREDICT

    @property
    def unfinished(self) -> list[Step]:
        """Steps that are still to be made. Predictions wait for no retraining that is made alone: if it
        failed, none of them could be made."""
        steps = [step for step in self.steps if not step.finished]
        if self.after is None:
            return steps
        coming = {step.place for step in self.after.unfinished} if self.after.is_needed else set()
        return [step for step in steps if (source := _source(step)).finished or source.place in coming]

    @property
    def is_needed(self) -> bool:
        """Whether it saves anything: a single step is made as cheaply by its own job."""
        return len(self.unfinished) > 1

    @property
    def transforms(self) -> list[Step]:
        """The transform stages that it carries out, in their order."""
        predictions = self.unfinished if self.predicts else []
        found = {stage.place: stage for step in predictions for stage in _stages(step)[1:]}
        return [stage for stage in found.values() if not stage.finished]

    @property
    def makes(self) -> dict[str, Step]:
        """All steps that it is needed for, by KIND/KEY, in its order."""
        steps = [*self.transforms, *self.unfinished] if self.is_needed else []
        return {step.place: step for step in steps}

    @property
    def inputs(self) -> "list[Step | SharedPass]":
        """What must have been made before it: steps, and the pass that trains what it predicts."""
        made, trained = self.makes, self.after.makes if self.after else {}
        needs = {step.place: step for own in made.values() for step in own.needs if step.place not in made}
        passes = [self.after] if self.after and needs.keys() & trained.keys() else []
        return [*passes, *(step for place, step in needs.items() if place not in trained)]


def shared_passes(steps: Iterable[Step]) -> list[SharedPass]:
    """The passes that the steps of an experiment can share: retrainings, then predictions, each in the order
    of their first steps."""
    steps = list(steps)
    parts = (
        part
        for found in _alike((step, _features(step)) for step in steps if step.kind is RETRAIN)
        for part in _with_one_meta_stream(found)
    )
    trained = [SharedPass(tuple(part)) for part in parts if len(part) > 1]
    trained_by = {step.place: shared for shared in trained for step in shared.steps}
    predicted = _alike((step, _trunk(step, trained_by)) for step in steps if step.kind is PREDICT)
    return trained + [
        SharedPass(tuple(part), trained_by.get(_source(part[0]).place)) for part in predicted if len(part) > 1
    ]


def _alike(steps: Iterable[tuple[Step, str]]) -> list[list[Step]]:
    """Steps with equal digests."""
    found: dict[str, list[Step]] = {}
    for step, of_step in steps:
        found.setdefault(of_step, []).append(step)
    return list(found.values())


def _with_one_meta_stream(steps: Sequence[Step]) -> Iterable[list[Step]]:
    """A pass has images for one kind of meta step, that of the first; others need passes of their own."""
    streams = {step.place: _meta_images(step) for step in steps}
    first, *others = dict.fromkeys(stream for stream in streams.values() if stream is not None) or [None]
    yield [step for step in steps if streams[step.place] in (first, None)]
    for stream in others:
        yield [step for step in steps if streams[step.place] == stream]


def _features(step: Step) -> str:
    """A digest of all that the features depend on which a classifier's training sees, in their order."""
    run, stage = step.run, step.stage
    assert stage is not None
    assert stage.schedule is not None
    of_method = stage.rois is not None or (stage.sampler is not None and ":" in stage.sampler.kind)
    return digest(
        {
            "backend": step.reads["backend"],
            "detector": step.reads["detector"],
            "seed": run.seed,  # of the draws, together with the stage's name
            "stage": stage.name,
            "sampler": _dumped(stage.sampler),
            "rois": stage.rois,
            "annotations": _dumped(stage.annotations),
            "images per step": stage.schedule.images_per_step,
            "images per worker": stage.images_per_worker,
            "precision": stage.schedule.precision,
            "method": [run.method, step.code] if of_method else None,
            "sources": {role: source.sha256 for role, source in step.sources.items()},
            "inputs": {
                role: before.key for role, before in step.inputs.items() if role != INTERMEDIATES.name
            },
        }
    )


def _trunk(step: Step, trained_by: Mapping[str, SharedPass]) -> str:
    """A digest of all that a prediction depends on before its classifier, and of what its checkpoint waits
    for.

    A training makes one trunk; retrainings, fits and transforms leave it as it is, which the pass verifies.
    Checkpoints that get ready at different times are not put together, so that none waits for another's
    training or fails with it.
    """
    source = _source(step)
    inputs = {role: before.key for role, before in step.inputs.items()}
    return digest(
        {
            "backend": step.reads["backend"],
            "detector": step.reads["detector"],
            "sources": {role: found.sha256 for role, found in step.sources.items()},
            "inputs": {
                role: key for role, key in inputs.items() if role not in ("checkpoint", INTERMEDIATES.name)
            },
            "weights": trained_by[source.place].key if source.place in trained_by else source.key,
        }
    )


def _source(prediction: Step) -> Step:
    """The last stage before a prediction that takes time: a training or a fit."""
    return _stages(prediction)[0]


def _stages(prediction: Step) -> list[Step]:
    """That stage, and the transform stages between it and the prediction, in order."""
    found = [prediction.inputs["checkpoint"]]
    while found[0].kind is TRANSFORM and "init" in found[0].inputs:
        found.insert(0, found[0].inputs["init"])
    return found


def _meta_images(step: Step) -> str | None:
    """A digest of what the images of a meta step depend on; None without one."""
    if step.stage is None or step.stage.meta is None:
        return None
    meta = step.stage.meta
    of_method = ":" in meta.sampler.kind
    return digest([_dumped(meta.sampler), [step.run.method, step.code] if of_method else None])


def _dumped(settings: BaseModel | None) -> dict[str, Any] | None:
    return None if settings is None else settings.model_dump(mode="json")
