"""Working directories for commands, whose stores contain finished steps."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmark.recipes.models import Run
from benchmark.records import Record, read_record, record_step
from benchmark.steps import Means, Step, find_step, link, make, steps_of
from benchmark.steps.store import publish


def place_beside(folder: Path, workplace: Path, *finished: Step) -> Path:
    """``folder`` as a working directory whose store has the datasets of ``workplace`` with their tables, and
    steps ``finished`` there."""
    store = workplace / "results" / "store"
    kinds = ("synthesize", "statistics", "intermediates")
    entries = [entry for kind in kinds for entry in store.glob(f"{kind}/*")]
    for entry in [*entries, *(workplace / step.folder for step in finished)]:
        link = folder / entry.relative_to(workplace)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(entry)
    return folder


def made_in(workplace: Path, run: Run, name: str) -> Step:
    """A step of any run, made in the store of ``workplace``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        step = step_of(run, name)
        make(step, Means())
    return step


def make_here(run: Run) -> None:
    """All steps of a run, in this process; ``longtail make`` starts one for each."""
    for step in steps_of(run):
        make(step, Means())
    link(run)


def make_command(run: Run, step: str, place: Path, *options: str) -> list[str]:
    """The command that makes a step of any run, to be started in ``place``."""
    file = place / "recipe.json"
    file.write_text(run.model_dump_json(by_alias=True))
    return [sys.executable, "-m", "benchmark.cli", "make", file.name, step, *options]


def step_of(run: Run, name: str) -> Step:
    """A step of a run; its paths are relative to the working directory."""
    step = find_step(run, name)
    assert step is not None
    return step


def record_in(place: Path, step: Step) -> Record | None:
    """The record of a step in another working directory, finished or not."""
    found = [read_record(place / folder / "record.json") for folder in (step.folder, step.work)]
    return next((record for record in found if record is not None), None)


@contextmanager
def made(step: Step) -> Iterator[Path]:
    """Gives the folder that becomes the finished step in the store, as if its command had filled it."""
    with record_step(step.work, step.subject):
        yield step.work
    publish(step)


def fabricate(step: Step, content: str = "made up") -> None:
    """Put a step into the store with text as the content of its outputs."""
    with made(step) as folder:
        for name in step.kind.outputs.values():
            if not (folder / name).exists():
                (folder / name).write_text(content)


class Diverged(RuntimeError):
    """An error whose state in a record is ``diverged``."""

    state = "diverged"


def fail(step: Step, error: BaseException) -> None:
    """Make a step end with an error."""
    with suppress(type(error)), record_step(step.work, step.subject):
        raise error
