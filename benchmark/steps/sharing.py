"""Shared passes: several steps that process the same images with the same detector are made together.

Retrainings share the features of a frozen detector on the training images. Predictions whose detectors differ
only in the classifier and the parts after it share everything before the classifier.
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
"""The resources of a job for a shared pass, equal to those for one retraining. No step is of this kind."""


@dataclass(frozen=True)
class SharedPass:
    """At least two steps of an experiment that one pass over the images can make: only retrainings, or only
    predictions.

    The pass makes the unfinished ones. Each has its own key, record and result, as if it had been made alone.
    Before predictions, the pass makes the transform stages of their checkpoints; ``after`` is the pass that
    trains these checkpoints, if there is one.
    """

    steps: tuple[Step, ...]
    after: Self | None = None

    @property
    def key(self) -> str:
        """A digest of all its steps, finished or not."""
        return digest(sorted(step.key for step in self.steps))

    @property
    def name(self) -> str:
        """shared_pass/KEY, the name in commands."""
        return f"{PASS.name}/{self.key}"

    @property
    def done(self) -> Path:
        """A stamp for Snakemake: the pass has run once, and the records of its steps state their results. The
        stamp is removed after the jobs of the steps have run."""
        return work_folder() / PASS.name / f"{self.key}.{DONE}"

    @property
    def predicts(self) -> bool:
        """Whether it makes predictions."""
        return self.steps[0].kind is PREDICT

    @property
    def unfinished(self) -> list[Step]:
        """Steps that the pass will make. Does not include predictions of a retraining that runs outside the
        pass ``after``, so that its failure does not stop the others."""
        steps = [step for step in self.steps if not step.finished]
        if self.after is None:
            return steps
        coming = {step.place for step in self.after.unfinished} if self.after.is_needed else set()
        return [step for step in steps if (source := _source(step)).finished or source.place in coming]

    @property
    def is_needed(self) -> bool:
        """Whether the pass saves time: it has at least two unfinished steps."""
        return len(self.unfinished) > 1

    @property
    def transforms(self) -> list[Step]:
        """The transform stages that the pass makes, in order."""
        predictions = self.unfinished if self.predicts else []
        found = {stage.place: stage for step in predictions for stage in _stages(step)[1:]}
        return [stage for stage in found.values() if not stage.finished]

    @property
    def makes(self) -> dict[str, Step]:
        """All steps that the pass makes, by KIND/KEY, in order; empty if it is not needed."""
        steps = [*self.transforms, *self.unfinished] if self.is_needed else []
        return {step.place: step for step in steps}

    @property
    def inputs(self) -> "list[Step | SharedPass]":
        """The steps that must be finished first, and the pass that trains the checkpoints of predictions."""
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
    """Split steps by the images of their meta steps, because a pass loads only one such stream.

    Steps without a meta step join the first group.
    """
    streams = {step.place: _meta_images(step) for step in steps}
    first, *others = dict.fromkeys(stream for stream in streams.values() if stream is not None) or [None]
    yield [step for step in steps if streams[step.place] in (first, None)]
    for stream in others:
        yield [step for step in steps if streams[step.place] == stream]


def _features(step: Step) -> str:
    """A digest of everything that the features in a classifier's training, and their order, depend on."""
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
    """A digest of everything that a prediction depends on before its classifier, and of the training that its
    checkpoint comes from.

    Only a training changes the trunk; retrainings, fits and transforms do not, and the pass verifies this.
    Predictions of different trainings are kept apart, so that none waits for another training or fails with
    it.
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
    """The last training or fit before a prediction; transforms after it take no time."""
    return _stages(prediction)[0]


def _stages(prediction: Step) -> list[Step]:
    """The last training or fit before a prediction, and the transform stages after it, in order."""
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
