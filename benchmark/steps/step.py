"""A step: its inputs, its outputs, and a key that changes if its result may change.

The key of a step is a digest of everything that its result depends on, as in build systems:

- the kind of step, and the settings that it reads, without those with their default value (so that a new
  setting whose default is the old behaviour does not change keys);
- the keys of the steps before it;
- the content of files that no step makes (annotations, initial weights);
- the version of the method's code;
- the versions of the project's areas that are involved (``benchmark.numerics``).

Not part of it, because results depend on them only in the last bits or not at all: names and titles, paths of
files, intervals of checkpoints, devices, workers, package versions and the machine (the record has them). The
annotation file represents the images that it names; their content is not read (``longtail check`` does that).
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
"""Role of the main output of a step: the checkpoint, the detections, the metrics."""

DONE = "done"
"""Name of an empty file in the folder of a finished step, for Snakemake."""

ABSENT = "absent"
"""Hash of a file that does not exist and never has; no result has a key with it."""


@dataclass(frozen=True)
class Kind:
    """The properties of all steps of a kind.

    ``outputs`` are file names by role, the main one first; ``areas`` are those of ``benchmark.numerics``.
    ``memory_mb`` and ``minutes`` are what a job requests for detectors meant for the CPU, and for others;
    ``on_gpu`` kinds use GPUs for the others; ``cores`` are the CPU cores that other jobs can use.
    ``of_dataset`` kinds make results that all runs on a dataset share.
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
    """A file that no step makes: its path, its name in the data folder for records, and the hash that its
    recipe expects, if any."""

    path: Path
    name: str
    expected: str | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of its content. If the file is missing, that of the only content from which results here
        were made, or ``ABSENT``."""
        found = file_hash(self.path)
        if found is None:
            seen = list(source_hashes_folder(self.name).glob("*"))
            found = seen[0].name if len(seen) == 1 else ABSENT
        return found


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a run or of its dataset.

    ``name`` is unique in its run; ``owner`` is the run to which it belongs, or the dataset that it makes.
    ``reads`` are the settings that the result depends on, ``code`` is the version of the method. ``after``
    are steps that must succeed before it, although the result does not depend on them.
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
        """The run of the step; not for steps that make a dataset."""
        assert isinstance(self.owner, Run)
        return self.owner

    @property
    def dataset(self) -> Dataset:
        """The dataset that it makes, or that of its run."""
        return self.owner.dataset if isinstance(self.owner, Run) else self.owner

    @property
    def stage(self) -> Stage | None:
        """The stage of the run that the step trains; None for other steps."""
        stages = self.owner.stages if isinstance(self.owner, Run) and self.kind.trains else []
        return next((stage for stage in stages if stage.name == self.name), None)

    @property
    def needs(self) -> "list[Step]":
        """The steps that must be done before, whether or not the result depends on them."""
        return [*self.inputs.values(), *self.after.values()]

    @property
    def full_name(self) -> str:
        """The step and its owner, for messages."""
        return f"'{self.name}' of {self.owner.title}"

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits: the key without the versions of the project's areas."""
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
        """The version of every area that the result depends on, including those of the steps before it."""
        areas = {*self.kind.areas, *(area for step in self.inputs.values() for area in step.numerics)}
        return {area: area_versions()[area] for area in sorted(areas)}

    @cached_property
    def key(self) -> str:
        """``<identity>-<digest of the versions>``: the name of the step's folder in the store."""
        return f"{self.identity}-{digest(self.numerics)[:6]}"

    @property
    def place(self) -> str:
        """KIND/KEY: its folder in the store or in the work folder."""
        return f"{self.kind.name}/{self.key}"

    @property
    def folder(self) -> Path:
        """The folder of the finished step."""
        return store_folder() / self.place

    @property
    def work(self) -> Path:
        """The folder of the unfinished step."""
        return work_folder() / self.place

    @property
    def lock(self) -> Path:
        """The lock file of the process that makes the step."""
        return self.work.with_name(f".{self.key}.lock")

    @property
    def finished(self) -> bool:
        """Whether the result is in the store."""
        return (self.folder / RECORD).is_file() and self.output().exists()

    @property
    def done(self) -> Path:
        """The stamp of a finished step."""
        return self.folder / DONE

    @property
    def record(self) -> Path:
        """The path of its record: in the store if it is finished, else in the work folder."""
        return (self.folder if self.finished else self.work) / RECORD

    @property
    def progress(self) -> Path:
        """The losses of a training, line by line."""
        return self.record.with_name(PROGRESS)

    @property
    def log(self) -> Path:
        """The output of the workflow's command for the step."""
        return logs_folder() / f"{self.place}.log"

    def output(self, role: str = MAIN) -> Path:
        """The path in the store of a file or folder that it makes."""
        return self.folder / self.kind.outputs[role]

    @property
    def subject(self) -> Subject:
        """The description of the step in its record."""
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
    """16 hexadecimal digits over JSON values, independent of the order of keys in mappings."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_hashes_folder(name: str) -> Path:
    """The folder with the hashes of all contents of a source file from which results were made."""
    return store_folder() / "sources" / name
