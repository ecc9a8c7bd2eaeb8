"""Kills and resumes a training on the GPU, and runs two commands on one device."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmark.recipes import find_run
from benchmark.records import read_record
from benchmark.steps import made_dataset
from tests.gpu.common import say, table_of

TEXT = """\
## Kill and resume; two commands, one device

Trainings of a tiny detector, each a `longtail make`. On a GPU, where sums of floats come in no fixed order,
two trainings of the same recipe end in other last digits, which grow; a resumed one is as near to one that
was not interrupted as that is to itself repeated.
"""
SCHEDULE = {
    "iterations": 120,
    "batch_size": 4,
    "reference_batch_size": 4,
    "learning_rate": 0.001,
    "optimizer": "sgd",
    "checkpoint_every": 10,
}
DEADLINE = 900.0  # seconds; the topic has a limit of its own


class Trainings:
    """Trainings with separate stores, so that none finds the result of another."""

    def __init__(self, dry: bool) -> None:
        self._devices = 0 if dry else 1
        self._schedule = SCHEDULE | ({"iterations": 8, "checkpoint_every": 2} if dry else {})
        self._data = Path.cwd() / "interruptions" / "data"
        self._data.mkdir(parents=True)
        self._write(self._data)
        with contextlib.chdir(self._data):
            made_dataset(find_run("e.yaml:a").dataset)

    def start(self, name: str) -> "tuple[Path, subprocess.Popen[str]]":
        """Begin, or go on, in the folder ``name``."""
        place = self._data.with_name(name)
        if not place.exists():
            shutil.copytree(self._data, place, symlinks=True)
        command = [sys.executable, "-m", "benchmark.cli", "make", "e.yaml:a", "train"]
        command += ["--devices", str(self._devices)]
        return place, subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True)

    def _write(self, place: Path) -> None:
        budget = {"name": "gpu", "all": self._schedule, "sampler": {"threshold": 0.1}}
        row = {"id": "a", "method": "softmax", "detector": "torchvision/tiny_mask_rcnn"}
        experiment = {"name": "e", "title": "E", "budget": "gpu.yaml"}
        experiment["rows"] = [row | {"dataset": "synthetic_tiny"}]  # type: ignore[assignment]
        (place / "gpu.yaml").write_text(yaml.safe_dump(budget))
        (place / "e.yaml").write_text(yaml.safe_dump(experiment))

    def losses(self, name: str) -> dict[str, Any]:
        """The last line of its log, with ``resumed_at``."""
        place = self._data.with_name(name)
        (file,) = place.glob("results/store/train/*/progress.jsonl")
        record = read_record(file.with_name("record.json"))
        assert record is not None
        return json.loads(file.read_text().splitlines()[-1])["losses"] | {"resumed_at": _resumed(record)}


def report(dry: bool) -> None:
    """A row for each property."""
    say(TEXT)
    shutil.rmtree("interruptions", ignore_errors=True)
    trainings = Trainings(dry)
    rows = [
        ("two at once", lambda: [_together(trainings)]),
        ("repeated", lambda: [_repeated(trainings)]),
        ("killed and resumed", lambda: [_resumed_row(trainings)]),
    ]
    if not table_of(["", "outcome"], rows):
        sys.exit(1)


def _repeated(trainings: Trainings) -> str:
    return f"losses differ by {_apart(trainings.losses('one'), trainings.losses('two')):.0e} of the largest"


def _resumed_row(trainings: Trainings) -> str:
    place, process = trainings.start("killed")
    end = time.monotonic() + DEADLINE
    while not list(place.glob("results/work/train/*/resume/*.sha256")):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"no checkpoint before the training ended: {_messages(process)}")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _finish(trainings.start("killed")[1])
    found = trainings.losses("killed")
    if not found["resumed_at"]:
        raise RuntimeError("the training began anew")
    apart = _apart(trainings.losses("one"), found)
    return f"resumed at iteration {found['resumed_at']}; losses differ by {apart:.0e} of the largest"


def _together(trainings: Trainings) -> str:
    processes = [trainings.start(name)[1] for name in ("one", "two")]
    messages = [_finish(process) for process in processes]
    waited = sum("waiting for 1 of" in text for text in messages)
    return f"both done; {waited} of them waited for the device"


def _finish(process: "subprocess.Popen[str]") -> str:
    _, text = process.communicate(timeout=DEADLINE)
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {text.splitlines()[-1:]}")
    return text


def _messages(process: "subprocess.Popen[str]") -> str:
    process.kill()
    return process.communicate()[1][-200:]


def _resumed(record: Any) -> int:
    return int(record.facts.get("resumed_at", 0))


def _apart(one: dict[str, float], two: dict[str, float]) -> float:
    names = one.keys() - {"resumed_at"}
    return max(abs(one[name] - two[name]) for name in names) / max(abs(one[name]) for name in names)
