"""A step: what it reads, what it makes, and a key that changes when its result may.

The key of a step is a digest of what its result depends on, as build systems have it:

- the kind of step, and the settings that it reads, without those that have their default value (so that a new
  setting whose default is the old behaviour changes no key);
- the keys of the steps before it;
- the content of files that no step makes (annotations, initial weights);
- the version of the method's code;
- the versions of the project's areas that take part (``benchmark.numerics``).

Not in it, because results do not depend on them or only in the last bits: names and titles, where files lie,
how often a checkpoint is written, devices, workers, package versions and the machine (the record has them).
Images are represented by the annotation file, which names them; their content is not read (``longtail check``
does).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.numerics import area_versions
from benchmark.recipes.models import Dataset, Run, Stage
from benchmark.recipes.paths import PROGRESS, RECORD, logs_folder, run_name, store_folder, work_folder
from benchmark.records import Subject
from benchmark.steps.hashes import file_hash

MAIN = "main"
"""Role of the output that gives a step its meaning: the checkpoint, the detections, the metrics."""

DONE = "done"
"""Name of an empty file in the folder of a finished step, for Snakemake."""

ABSENT = "absent"
"""Stands for the content of a file that is not there and never was: a key with it belongs to no result."""


@dataclass(frozen=True)
class Kind:
    """What all steps of a kind have in common.

    ``outputs`` are file names by role, the main one first; ``areas`` are those of ``benchmark.numerics``.
    ``memory_mb`` and ``minutes`` are what a job asks for, for detectors meant for CPU cores and for others;
    ``on_gpu`` kinds take GPUs for the others; ``cores`` are those of the CPU that the rest can use.
    ``of_dataset`` kinds make what all runs on a dataset share.
    """

    name: str
    outputs: Mapping[str, str]
    areas: tuple[str, ...]
    memory_mb: tuple[int, int]
    minutes: tuple[int, int]
    on_gpu: bool = False
    of_dataset: bool = False
    cores: int = 1

    @property
    def trains(self) -> bool:
        """Whether steps of this kind make a checkpoint."""
        return self.outputs[MAIN] == "checkpoint.pt"


@dataclass(frozen=True)
class Source:
    """A file that no step makes: its path here, the name in the data folder under which results know it, and
    the hash that its recipe expects, if any."""

    path: Path
    name: str
    expected: str | None = None

    @property
    def sha256(self) -> str:
        """Of its content; where it is not here, of the one content that results here were made from, if it is
        only one; else ``ABSENT``."""
        found = file_hash(self.path)
        if found is None:
            seen = list(seen_folder(self.name).glob("*"))
            found = seen[0].name if len(seen) == 1 else ABSENT
        return found


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a run or of its dataset.

    ``name`` is unique in its run; ``owner`` is the run that carries it out, or the dataset that it makes.
    ``reads`` are the settings that the result depends on, ``code`` is the version of the method. ``after``
    are steps that must have succeeded before, although the result does not depend on them.
    """

    kind: Kind
    name: str
    owner: Run | Dataset
    reads: Mapping[str, Any]
    inputs: Mapping[str, "Step"]
    sources: Mapping[str, Source]
    code: str | None = None
    after: Mapping[str, "Step"] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        """The run that carries it out; not of a step that makes a dataset."""
        assert isinstance(self.owner, Run)
        return self.owner

    @property
    def dataset(self) -> Dataset:
        """The dataset that it makes, or on which its run is."""
        return self.owner.dataset if isinstance(self.owner, Run) else self.owner

    @property
    def stage(self) -> Stage | None:
        """The stage of its run that it carries out; None where it makes something else."""
        stages = self.owner.stages if isinstance(self.owner, Run) and self.kind.trains else []
        return next((stage for stage in stages if stage.name == self.name), None)

    @property
    def needs(self) -> "list[Step]":
        """The steps that must be done before, whether or not the result depends on them."""
        return [*self.inputs.values(), *self.after.values()]

    @property
    def full_name(self) -> str:
        """For messages: the step and whose it is."""
        return f"'{self.name}' of {self.owner.title}"

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits: the key but for the versions of the project's areas."""
        return digest(
            {
                "kind": self.kind.name,
                "reads": self.reads,
                "code": self.code,
                "sources": {role: source.sha256 for role, source in self.sources.items()},
                "inputs": {role: step.identity for role, step in self.inputs.items()},
            }
        )

    @cached_property
    def numerics(self) -> dict[str, str]:
        """The version of every area that the result depends on, through the steps before it too."""
        areas = {*self.kind.areas, *(area for step in self.inputs.values() for area in step.numerics)}
        return {area: area_versions()[area] for area in sorted(areas)}

    @cached_property
    def key(self) -> str:
        """``<identity>-<digest of the versions>``: the name of the step's folder in the store."""
        return f"{self.identity}-{digest(self.numerics)[:6]}"

    @property
    def place(self) -> str:
        """KIND/KEY: its folder, in the store or in the work folder."""
        return f"{self.kind.name}/{self.key}"

    @property
    def folder(self) -> Path:
        """Where the finished step lies."""
        return store_folder() / self.place

    @property
    def work(self) -> Path:
        """Where the unfinished step lies."""
        return work_folder() / self.place

    @property
    def lock(self) -> Path:
        """What the process that makes the step keeps locked."""
        return self.work.with_name(f".{self.key}.lock")

    @property
    def finished(self) -> bool:
        """Whether its result is in the store."""
        return (self.folder / RECORD).is_file() and self.output().exists()

    @property
    def done(self) -> Path:
        """The stamp of a finished step."""
        return self.folder / DONE

    @property
    def record(self) -> Path:
        """Where its record is: in the store if it is finished, else where it is worked on."""
        return (self.folder if self.finished else self.work) / RECORD

    @property
    def progress(self) -> Path:
        """The losses of a training, line by line."""
        return self.record.with_name(PROGRESS)

    @property
    def log(self) -> Path:
        """What the workflow's command for it has printed."""
        return logs_folder() / f"{self.place}.log"

    def output(self, role: str = MAIN) -> Path:
        """A file or folder that it makes, in the store."""
        return self.folder / self.kind.outputs[role]

    @property
    def subject(self) -> Subject:
        """What its record says about it."""
        return Subject(
            kind=self.kind.name,
            step=self.name,
            key=self.key,
            identity=self.identity,
            owner=run_name(self.owner) if isinstance(self.owner, Run) else self.owner.name,
            title=self.owner.title,
            reads=dict(self.reads),
            code=self.code,
            numerics=self.numerics,
            inputs={role: step.place for role, step in self.inputs.items()},
            sources={role: source.sha256 for role, source in self.sources.items()},
            recipe=self.owner.model_dump(mode="json", by_alias=True, exclude={"plugin_path"}),
        )


def digest(content: Any) -> str:
    """16 hexadecimal digits over JSON values; the order of keys in mappings does not count."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seen_folder(name: str) -> Path:
    """Where the store keeps the hashes of the contents of a source file that results were made from."""
    return store_folder() / "sources" / name
