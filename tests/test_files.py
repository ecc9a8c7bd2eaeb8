"""Outputs are written completely or not at all."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmark.errors import FileError
from benchmark.files import atomic_path, exclusive, is_locked, read_json, write_json, write_text


def test_a_failure_keeps_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_values_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"AP": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write") as error:
        write_text(tmp_path / "file" / "inside.txt", "text")
    assert "remedy" in str(error.value)


def test_broken_json_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text('{"a": 1,\n "b": }')
    with pytest.raises(FileError, match="line 2"):
        read_json(tmp_path / "file.json")


def test_a_device_or_pipe_is_not_replaced(tmp_path: Path) -> None:
    """For root, a rename would replace /dev/null by an ordinary file."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="device or a pipe"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_lock_ends_with_its_process_also_where_a_forked_child_lives_on(tmp_path: Path) -> None:
    script = """
        import os, sys, time
        from pathlib import Path
        from benchmark.files import exclusive, is_locked
        lock = Path(sys.argv[1])
        with exclusive(lock, Path("out")):
            assert is_locked(lock)
            if os.fork() == 0:
                print(os.getpid(), flush=True)
                time.sleep(60)
            sys.stdin.read()
    """
    lock = tmp_path / ".lock"
    command = [sys.executable, "-c", textwrap.dedent(script), str(lock)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert is_locked(lock)
        assert lock.read_text().startswith(f"process {process.pid} on ")
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        locked = is_locked(lock)
        os.kill(child, signal.SIGKILL)
    assert not locked
    with exclusive(lock, tmp_path / "out"):
        assert is_locked(lock)
    assert not lock.exists()


def test_a_lock_that_cannot_name_its_holder_leaves_nothing(tmp_path: Path) -> None:
    """Where the disk is full."""
    script = """
        import resource, sys
        from pathlib import Path
        from benchmark.files import exclusive, is_locked
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        lock = Path(sys.argv[1])
        with exclusive(lock, Path("out")):
            assert is_locked(lock)
    """
    lock = tmp_path / ".lock"
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(lock)], check=True)
    assert not lock.exists()
