"""Stages that train classifiers on equal features: one pass over the images can train them all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmark.recipes.paths import work_folder
from benchmark.steps.listing import INTERMEDIATES, RETRAIN
from benchmark.steps.step import DONE, Step, digest

PASS = replace(RETRAIN, name="shared_pass")
"""What a job for a shared pass asks for: as much as one for each of its steps. No step is of this kind."""


@dataclass(frozen=True)
class SharedPass:
    """Steps of an experiment that one pass over the images can train, at least two.

    The pass makes those that are not finished yet and leaves each finished one in the store, as if it had
    been trained alone: its result, key and record are its own.
    """

    steps: tuple[Step, ...]

    @property
    def key(self) -> str:
        """Changes with the steps that it could train, whether or not some are finished."""
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
    def unfinished(self) -> list[Step]:
        """Steps that are still to be made."""
        return [step for step in self.steps if not step.finished]

    @property
    def is_needed(self) -> bool:
        """Whether it saves anything: a single step is trained as cheaply by its own job."""
        return len(self.unfinished) > 1


def shared_passes(steps: Iterable[Step]) -> list[SharedPass]:
    """The passes that the steps of an experiment can share, in the order of their first steps."""
    alike: dict[str, list[Step]] = {}
    for step in steps:
        if step.kind is RETRAIN:
            alike.setdefault(_features(step), []).append(step)
    parts = (part for found in alike.values() for part in _with_one_meta_stream(found))
    return [SharedPass(tuple(part)) for part in parts if len(part) > 1]


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


def _meta_images(step: Step) -> str | None:
    """A digest of what the images of a meta step depend on; None without one."""
    if step.stage is None or step.stage.meta is None:
        return None
    meta = step.stage.meta
    of_method = ":" in meta.sampler.kind
    return digest([_dumped(meta.sampler), [step.run.method, step.code] if of_method else None])


def _dumped(settings: BaseModel | None) -> dict[str, Any] | None:
    return None if settings is None else settings.model_dump(mode="json")
