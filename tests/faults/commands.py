"""Runs ``longtail`` in forked processes, so that PyTorch is imported only once."""

import multiprocessing
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmark import cli

LIMIT = 900.0  # seconds; nothing here takes that long, however busy the machine


@dataclass
class Command:
    """A running command, which leads its own session so that its child processes can be found."""

    pid: int
    log: Path
    status: int | None = None
    cpu_seconds: float = 0.0

    @property
    def output(self) -> str:
        """The output so far."""
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float = LIMIT) -> int:
        """Wait for the end; returns the exit status, or minus the number of the signal that ended it."""
        if self.status is None:
            handle = os.pidfd_open(self.pid)
            try:
                if not select.select([handle], [], [], seconds)[0]:
                    self.kill()
                    raise TimeoutError(f"{self.log}: still running after {seconds:.0f} s")
            finally:
                os.close(handle)
            _, status, usage = os.wait4(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
            self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self.status

    def kill(self) -> None:
        """Kill the whole session."""
        os.killpg(self.pid, signal.SIGKILL)

    def orphans(self, patience: float = 15.0) -> list[int]:
        """Child processes that outlive it; loading processes notice its end within seconds."""
        deadline = time.monotonic() + patience
        while (left := members(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left


def start(
    arguments: list[str], folder: Path, log: Path, prepare: Callable[[], None] = lambda: None
) -> Command:
    """Start ``longtail ARGUMENTS`` in ``folder``; ``prepare`` is called in its process before."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Command(pid, log)
    status = 1
    try:
        os.setsid()
        multiprocessing.current_process()._config.pop("daemon", None)  # a command may have loading processes
        os.chdir(folder)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["longtail", *arguments]
        prepare()
        cli.main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def members(session: int) -> list[int]:
    """The running processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found
