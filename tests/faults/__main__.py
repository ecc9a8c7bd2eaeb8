"""``python -m tests.faults``: break a small experiment in every way; it recovers, or says why not.

Every fault happens in a copy of a finished experiment. After it the tables are looked at, the user's recovery
is done (the same command again, after what was broken is put right), and the result must have the same bytes
as undisturbed. Prints what happened, by kind; exit status 1 if anything did that must not.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # numbers must not depend on the machine's load

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch  # noqa: F401  so that no command has to
import torchvision  # noqa: F401

from benchmark.detectors import torchvision as _detectors  # noqa: F401
from benchmark.inference import predict as _predict  # noqa: F401
from benchmark.training import stages as _stages  # noqa: F401

from .killed_workflows import killed_workflows
from .kinds import COUNTS
from .place import Place, Reference, Violation

BAD = "VIOLATION"
Fault = Callable[[Place], str]


@dataclass
class Job:
    """One fault to inject."""

    number: int
    fault: Fault
    seed: str
    work: Path
    reference: Reference

    def __call__(self) -> tuple[str, str, str]:
        """Kind, outcome, and what went wrong if something did."""
        kind = self.fault.__name__.replace("_", " ")
        folder = self.work / f"{self.number:04d}"
        try:
            place = Place(folder, self.reference, random.Random(f"{self.seed}, {self.number}"))
            outcome = self.fault(place)
        except Violation as error:
            return kind, BAD, f"{folder}: {error}"
        except Exception:
            return kind, BAD, f"{folder}: {traceback.format_exc()}"
        finally:
            os.chdir(self.work)
        shutil.rmtree(folder)
        for log in self.work.glob(f"{folder.name}.*.log"):
            log.unlink()
        return kind, outcome, ""


def chosen(counts: dict[Fault, int], total: int | None) -> list[Fault]:
    """The faults, kinds mixed; ``total`` of them, each kind at least once where there is room."""
    rounds = [fault for i in range(max(counts.values())) for fault, count in counts.items() if i < count]
    return rounds[:total]


def main() -> int:
    """Run, print the counts, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", default="0", help="of every draw")
    parser.add_argument("--faults", type=int, help="only so many")
    parser.add_argument("--only", default="", help="only kinds with this word in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="faults at the same time")
    parser.add_argument("--no-workflow", action="store_true", help="leave out what kills whole workflows")
    options = parser.parse_args()
    begin = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="faults."))
    reference = Reference(work / "reference")
    print(f"undisturbed experiment in {reference.folder} ...", flush=True)
    reference.make()
    counts = {fault: count for fault, count in COUNTS.items() if options.only in fault.__name__}
    if not options.no_workflow and options.only in killed_workflows.__name__:
        counts = {killed_workflows: 1, **counts}
    jobs = [
        Job(number, fault, options.seed, work, reference)
        for number, fault in enumerate(chosen(counts, options.faults))
    ]
    print(f"{len(jobs)} faults, {options.jobs} at a time ...", flush=True)
    seen: Counter[tuple[str, str]] = Counter()
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        for number, (kind, outcome, what) in enumerate(pool.imap_unordered(Job.__call__, jobs), start=1):
            for one in outcome.split("\n"):
                seen[kind, one] += 1
            if what:
                print(f"{BAD} in {kind}: {what}", flush=True)
            if number % 25 == 0:
                print(f"{number} of {len(jobs)} after {time.monotonic() - begin:.0f} s", flush=True)
    return report(seen, work, time.monotonic() - begin)


def report(seen: Counter[tuple[str, str]], work: Path, seconds: float) -> int:
    """Print the counts by kind and outcome."""
    wide = max(len(kind) for kind, _ in seen)
    for (kind, outcome), count in sorted(seen.items()):
        print(f"{count:5}  {kind:<{wide}}  {outcome}")
    bad = sum(count for (_, outcome), count in seen.items() if outcome == BAD)
    print(f"{seen.total():5}  faults in {seconds / 60:.1f} min; {bad} violations")
    if bad:
        print(f"what they left is in {work}")
        return 1
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
