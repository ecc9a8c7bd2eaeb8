"""Measures Python code in a separate process, and formats tables."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]  # where `import benchmark` and `import tests.performance` work


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one process, including its child processes."""

    cpu_seconds: float  # user and system
    wall_seconds: float
    peak_megabytes: float  # largest resident set of one process, in 10^6 bytes
    output: str  # its stdout


def measure(code: str, *arguments: str) -> Measurement:
    """Run ``code`` (``python -c``; arguments in ``sys.argv[1:]``) in a fresh process with one thread.

    Start-up and imports are included: subtract the measurement of code that only imports, where they matter.

    Raises:
        RuntimeError: the process failed; with what it wrote to stderr.
    """
    # This file as a script starts the process: Linux counts the memory of whoever starts it to its peak.
    command = [sys.executable, str(Path(__file__)), sys.executable, "-c", code, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the measured code failed\n{done.stderr}")
    # the last line is the launcher's, all before it is of the measured code
    output, _, usage = done.stdout.removesuffix("\n").rpartition("\n")
    return Measurement(**json.loads(usage), output=output)


def result_of(topic: str, expression: str) -> Any:
    """The value (of JSON types) of an expression in a topic's names, computed in a process of its own."""
    code = f"import json; from tests.performance.{topic} import *; print(json.dumps({expression}))"
    return json.loads(measure(code).output)


def alternately(
    *works: Callable[[], object], repetitions: int, clock: Callable[[], float] = time.process_time
) -> list[list[float]]:
    """Seconds of each of ``works`` in each repetition, after a first one that is not counted.

    They alternate, so a machine that becomes slower slows all of them. The default clock counts the CPU time
    of this process.
    """
    seconds: list[list[float]] = [[] for _ in works]
    for repetition in range(repetitions + 1):
        for work, of_work in zip(works, seconds, strict=True):
            start = clock()
            work()
            if repetition:
                of_work.append(clock() - start)
    return seconds


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the ratios of paired measurements."""
    return statistics.median(n / d for n, d in zip(numerators, denominators, strict=True))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are right-aligned."""
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def _launch(command: list[str]) -> None:
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    usage = {
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "wall_seconds": time.perf_counter() - start,
        "peak_megabytes": used.ru_maxrss * unit / 1e6,
    }
    print("\n" + json.dumps(usage))


if __name__ == "__main__":
    _launch(sys.argv[1:])
