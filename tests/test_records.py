"""A record tells how a step ended, however it ended."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmark.errors import BenchmarkError, FileError
from benchmark.files import BusyError
from benchmark.recipes.paths import record_path
from benchmark.records import HASH_LIMIT, State, check_attempt, fingerprint, read_record, record_step


class Diverged(RuntimeError):
    state = "diverged"


def test_done_holds_what_reproduces_the_step(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("content")
    output = tmp_path / "deep" / "checkpoint.pt"
    with record_step(output, "train base", {"seed": 3}, {"annotations": source}) as record:
        under_way = read_record(record_path(output))
        assert under_way is not None
        assert (under_way["state"], under_way["pid"]) == ("running", os.getpid())
        record.add(gpu="none")
    found = read_record(record_path(output))
    assert found is not None
    assert (found["state"], found["reason"], found["step"]) == (State.done, None, "train base")
    assert found["inputs"]["annotations"]["sha256"].startswith("ed7002b439e9ac84")
    assert found["recipe"] == {"seed": 3}
    assert found["facts"] == {"gpu": "none"}
    assert found["duration_s"] >= 0
    assert found["peak_memory_mb"] > 5
    assert found["versions"]["hotcoco"]
    assert found["code"] != "unknown"


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
    output = tmp_path / "metrics.json"
    with pytest.raises(type(error)), record_step(output, "evaluate", {}, {}):
        raise error
    record = read_record(record_path(output))
    assert record is not None
    assert record["state"] == state
    assert reason in record["reason"]


def test_missing_input_is_a_recorded_failure(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError),
        record_step(tmp_path / "out", "predict", {}, {"checkpoint": tmp_path / "no.pt"}),
    ):
        pass
    record = read_record(record_path(tmp_path / "out"))
    assert record is not None
    assert record["state"] == "failed"
    assert "no.pt" in record["reason"]


def test_killed_step_never_looks_finished(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        from benchmark.records import record_step
        with record_step(Path(sys.argv[1]), "train", {}, {}):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "out.pt")], check=False
    )
    assert done.returncode == -signal.SIGKILL
    record = read_record(record_path(tmp_path / "out.pt"))
    assert record is not None
    assert record["state"] == State.running


def test_fingerprint_changes_with_content_and_stays_cheap_for_large_files(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_text("a")
    before = fingerprint(small)
    small.write_text("b")
    assert fingerprint(small) != before
    with large.open("wb") as file:
        file.truncate(HASH_LIMIT + 1)
    assert set(fingerprint(large)) == {"path", "size", "mtime_ns"}


def test_no_record_is_none_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert read_record(tmp_path / "none.json") is None
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"state": "fine"}')
    with pytest.raises(FileError, match="not a record"):
        read_record(damaged)


def test_a_second_process_with_the_same_output_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.files.LOCK_WAIT", 0.2)
    output = tmp_path / "checkpoint.pt"
    script = """
        import sys
        from pathlib import Path
        from benchmark.records import record_step
        with record_step(Path(sys.argv[1]), "train", {}, {}):
            print("started", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(output)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "started\n"
        before = record_path(output).read_bytes()
        with (
            pytest.raises(BusyError, match=rf"(?s)another process is making .*process {first.pid} on"),
            record_step(output, "train", {}, {}),
        ):
            pass
        assert record_path(output).read_bytes() == before
        first.kill()
        first.wait()
    with record_step(output, "train", {}, {}):  # the lock of a dead process is taken over
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.provenance.json"]


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
    output = tmp_path / "checkpoint.pt"
    check_attempt(output, 2)
    with pytest.raises(type(error)), record_step(output, "train", {}, {}):
        raise error
    check_attempt(output, 1)
    if again:
        check_attempt(output, 2)
    else:
        with pytest.raises(BenchmarkError, match="attempt 2 would fail") as refused:
            check_attempt(output, 2)
        # the log of the first attempt is gone by then
        assert ("Traceback" in str(refused.value)) is not isinstance(error, BenchmarkError)
