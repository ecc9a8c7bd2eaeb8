"""A record states how a step ended, for every way to end."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from places import Diverged

from benchmark.errors import BenchmarkError, FileError
from benchmark.records import (
    Record,
    State,
    StepRecorder,
    Subject,
    check_attempt,
    is_intact,
    read_record,
    record_step,
)

SUBJECT = Subject(
    kind="train", step="base", key="0123-45", identity="0123", reads={"seed": 3}, numerics={"training": "1"}
)


@contextmanager
def step(folder: Path) -> Iterator[StepRecorder]:
    with record_step(folder, SUBJECT) as recorder:
        yield recorder


def record_of(folder: Path) -> Record:
    record = read_record(folder / "record.json")
    assert record is not None
    return record


def test_done_holds_what_reproduces_the_step(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "step"
    with step(folder) as recorder:
        assert (record_of(folder).state, record_of(folder).pid) == ("running", os.getpid())
        recorder.add(gpu="none")
        (folder / "checkpoint.pt").write_text("content")
        (folder / "images").mkdir()
        (folder / "images" / "1.png").write_text("12345")
        (folder / "progress.jsonl").write_text("is no result")
    found = record_of(folder)
    assert (found.state, found.reason, found.subject) == (State.done, None, SUBJECT)
    assert [output.name for output in found.outputs] == ["checkpoint.pt", "images"]
    checkpoint, images = found.outputs
    assert checkpoint.bytes == 7
    assert (checkpoint.sha256 or "").startswith("ed7002b439e9ac84")
    assert (images.files, images.bytes, images.sha256) == (1, 5, None)
    assert found.facts == {"gpu": "none"}
    assert found.duration_s is not None
    assert (found.peak_memory_mb or 0) > 5
    assert found.versions["hotcoco"]
    assert found.code_version != "unknown"


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (BenchmarkError("bad field", where="a.json"), "failed", "bad field"),
        (ValueError("odd"), "failed", "ValueError: odd"),
        (Diverged("loss is nan"), "diverged", "loss is nan"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (SystemExit(3), "interrupted", "SystemExit: 3"),
        (SystemExit(2), "failed", "SystemExit: 2"),
    ],
)
def test_every_ending_is_recorded_and_the_error_goes_on(
    error: BaseException, state: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(type(error)), step(tmp_path / "step"):
        raise error
    record = record_of(tmp_path / "step")
    assert record.state == state
    assert reason in (record.reason or "")


def test_killed_step_never_looks_finished(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        from benchmark.records import Subject, record_step
        folder = Path(sys.argv[1])
        with record_step(folder, Subject(kind="a", step="b", key="c", identity="d")):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "step")], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert record_of(tmp_path / "step").state == State.running


def test_no_record_is_none_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert read_record(tmp_path / "none.json") is None
    damaged = tmp_path / "damaged.json"
    for content in ('{"state": "fine"}', "[]", "{"):
        damaged.write_text(content)
        with pytest.raises(FileError, match=r"(?s)not a record.*damaged\.json.*found: .*remedy: "):
            read_record(damaged)


def test_what_a_finished_step_made_is_intact_or_not(tmp_path: Path) -> None:
    assert not is_intact(tmp_path)
    with step(tmp_path):
        (tmp_path / "checkpoint.pt").write_text("content")
        (tmp_path / "images").mkdir()
        assert not is_intact(tmp_path)
    assert is_intact(tmp_path)
    (tmp_path / "checkpoint.pt").write_text("another")
    assert not is_intact(tmp_path)
    (tmp_path / "checkpoint.pt").write_text("content")
    assert is_intact(tmp_path)
    (tmp_path / "images").rmdir()
    assert not is_intact(tmp_path)
    (tmp_path / "record.json").write_text("{")
    assert not is_intact(tmp_path)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (BenchmarkError("bad field"), False),
        (ValueError("odd"), False),
        (Diverged("loss is nan"), False),
        (RuntimeError("CUDA out of memory"), True),
        (KeyboardInterrupt(), True),
        (SystemExit(3), True),
    ],
)
def test_a_second_attempt_is_made_only_where_it_can_end_otherwise(
    error: BaseException, again: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "step"
    check_attempt(folder, 2)
    with pytest.raises(type(error)), step(folder):
        raise error
    check_attempt(folder, 1)
    if again:
        check_attempt(folder, 2)
    else:
        with pytest.raises(BenchmarkError, match="attempt 2 would fail") as refused:
            check_attempt(folder, 2)
        # the log of the first attempt is gone by then
        assert ("Traceback" in str(refused.value)) is not isinstance(error, BenchmarkError)
