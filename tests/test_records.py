"""A record tells how a step ended, however it ended."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmark.errors import BenchmarkError, FileError
from benchmark.files import BusyError
from benchmark.records import Record, State, StepRecorder, Subject, check_attempt, read_record, record_step

SUBJECT = Subject(
    kind="train", step="base", key="0123-45", identity="0123", reads={"seed": 3}, numerics={"training": "1"}
)


class Diverged(RuntimeError):
    state = "diverged"


@contextmanager
def step(folder: Path) -> Iterator[StepRecorder]:
    with record_step(folder, folder.with_name(".lock"), SUBJECT) as recorder:
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
        with record_step(folder, folder / ".lock", Subject(kind="a", step="b", key="c", identity="d")):
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


def test_a_second_process_with_the_same_step_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.files.LOCK_WAIT", 0.2)
    folder = tmp_path / "step"
    script = """
        import sys
        from pathlib import Path
        from benchmark.records import Subject, record_step
        folder = Path(sys.argv[1])
        lock = folder.with_name(".lock")
        with record_step(folder, lock, Subject(kind="a", step="b", key="c", identity="d")):
            print("started", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "started\n"
        before = (folder / "record.json").read_bytes()
        with (
            pytest.raises(BusyError, match=rf"(?s)another process is making .*process {first.pid} on"),
            step(folder),
        ):
            pass
        assert (folder / "record.json").read_bytes() == before
        first.kill()
        first.wait()
    with step(folder):  # the lock of a dead process is taken over
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["step"]
    assert [path.name for path in folder.iterdir()] == ["record.json"]


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
