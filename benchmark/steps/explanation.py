"""The contents of a step's key, and the differences between a step and stored results."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmark.errors import BenchmarkError
from benchmark.numerics import UNCHECKED, is_unchecked
from benchmark.recipes.models import Run
from benchmark.recipes.paths import RECORD, store_folder
from benchmark.records import Record, package_versions, read_record
from benchmark.steps.listing import steps_of
from benchmark.steps.step import ABSENT, Step
from benchmark.steps.store import older


def keys_of(run: Run) -> list[dict[str, Any]]:
    """Every step of a run with its key, and what the key is made of, as ``show --keys --json`` prints it."""
    return [
        {
            "name": step.name,
            "kind": step.kind.name,
            "key": step.key,
            "state": _state(step),
            "reads": dict(_leaves(step.reads)),
            "sources": {
                role: {"path": str(source.path), "sha256": None if source.sha256 == ABSENT else source.sha256}
                for role, source in step.sources.items()
            },
            "after": {role: before.place for role, before in step.inputs.items()},
            "method_code": step.code,
            "versions": dict(step.numerics),
        }
        for step in steps_of(run)
    ]


def explain_keys(run: Run) -> str:
    """The result of ``keys_of`` as text."""
    lines: list[str] = []
    for step in steps_of(run):
        lines += [f"{step.place}  {step.full_name}: {_state(step)}"]
        lines += [f"  reads     {path}: {_shown(value)}" for path, value in _leaves(step.reads)]
        lines += [f"  source    {role}: {_source(step, role)}" for role in step.sources]
        lines += [f"  after     {role}: {before.place}" for role, before in step.inputs.items()]
        lines += [f"  method    {step.run.method}: version {step.code}"] if step.code else []
        versions = ", ".join(f"{area} {version}" for area, version in step.numerics.items())
        lines += [f"  versions  {versions}", ""]
    lines.append("Settings with their default value are left out.")
    if any(is_unchecked(version) for step in steps_of(run) for version in step.numerics.values()):
        lines.append(
            f"A version with '{UNCHECKED}' is of code that was edited since `make canary` last looked at it."
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Explained:
    """Why a step has a result or none.

    ``nearest`` is the most similar stored result, as ``kind/key``, and ``differences`` those from
    it. ``packages`` of a finished step are those whose versions differ from the installed ones.
    """

    step: str
    kind: str
    key: str
    state: str
    finished: bool
    nearest: str | None = None
    nearest_finished: str | None = None
    differences: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def text(self) -> str:
        """One line, and one for each difference."""
        if self.finished:
            return "\n".join(
                [f"{self.step}: {self.state}", *(f"  made with {item}" for item in self.packages)]
            )
        if self.nearest is None:
            return f"{self.step}: not made, and no other result of this kind is here"
        head = f"{self.step}: not made; {self.nearest} of {self.nearest_finished} differs in"
        return "\n".join([head, *(f"  {item}" for item in self.differences)])


def explain_steps(run: Run) -> list[Explained]:
    """For every step of a run: whether it has a result, or the differences from the nearest stored one."""
    found = []
    for step in steps_of(run):
        known = Explained(step.full_name, step.kind.name, step.key, _state(step), step.finished)
        if step.finished:
            known = replace(known, packages=tuple(_other_packages(read_record(step.record))))
        elif (nearest := _nearest(step)) is not None:
            known = replace(
                known,
                nearest=f"{step.kind.name}/{nearest.subject.key}",
                nearest_finished=nearest.finished,
                differences=tuple(_differences(step, nearest)),
            )
        found.append(known)
    return found


def _nearest(step: Step) -> Record | None:
    """The result of the same kind with the fewest differences, those of a run of the same name first."""
    if others := older(step):
        return read_record(others[0] / RECORD)
    records = []
    for path in (store_folder() / step.kind.name).glob(f"*/{RECORD}"):
        try:
            record = read_record(path)
        except BenchmarkError:
            continue
        if record is not None:
            records.append(record)

    def distance(record: Record) -> tuple[bool, int]:
        return record.subject.owner != step.subject.owner, len(list(_differences(step, record)))

    return min(records, key=distance, default=None)


def _differences(step: Step, record: Record) -> Iterator[str]:
    then, now = record.subject, step.subject
    for path, before, after in _changes(then.reads, now.reads):
        yield f"{path}: {before} there, {after} here"
    for role, before, after in _changes(then.sources, now.sources):
        yield f"content of the {role}: {before[:12]} there, {after[:12]} here"
    for role, _, _ in _changes(then.inputs, now.inputs):
        yield f"the step before it ({role}) has another result"
    if then.code != now.code:
        yield f"code of method {step.run.method}: version {then.code} there, {now.code} here"
    for area, before, after in _changes(then.numerics, now.numerics):
        yield f"version of area {area}: {before} there, {after} here"


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    before, after = dict(_leaves(then)), dict(_leaves(now))
    for path in dict.fromkeys([*before, *after]):
        if before.get(path) != after.get(path):
            there, here = (_shown(side[path]) if path in side else "default" for side in (before, after))
            yield path, there, here


def _leaves(content: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by path, e.g. ``stage.schedule.learning_rate``."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{start}{key}.")
        else:
            yield f"{start}{key}", value


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _source(step: Step, role: str) -> str:
    source = step.sources[role]
    sha256 = source.sha256
    return f"{source.path} is not here" if sha256 == ABSENT else f"{source.path}, SHA-256 {sha256[:12]}..."


def _state(step: Step) -> str:
    record = read_record(step.record)
    if record is None:
        return "not made"
    return f"made {record.finished} on {record.host}" if step.finished else f"{record.state}"


def _other_packages(record: Record | None) -> Iterator[str]:
    """Packages with other versions than here; they are not part of the key."""
    here = package_versions()
    for name, version in (record.versions if record is not None else {}).items():
        if version is not None and version != here.get(name):
            yield f"{name} {version}, here {here.get(name) or 'not installed'}"
