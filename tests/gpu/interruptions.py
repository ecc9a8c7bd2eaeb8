"""Kills and resumes a training on the GPU, and runs two commands on one device."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from torch import Tensor

from benchmark.detectors.checkpoints import load
from benchmark.recipes import find_run
from benchmark.records import read_record
from benchmark.steps import made_dataset
from tests.gpu.common import say, table_of

TEXT = """\
## Kill and resume; two commands, one device

Trainings of a tiny detector, each a `longtail make`. On a GPU, where sums of floats come in no fixed order,
two trainings of the same recipe end in other last digits, which grow; a resumed one is as near to one that
was not interrupted as that is to itself repeated. Differences of all weights, relative to their norm.
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

    def weights(self, name: str) -> Tensor:
        """All weights that it ended with, in one vector."""
        model = load(self._folder(name) / "checkpoint.pt")["model"]
        return torch.cat([value.double().flatten() for value in model.values()])

    def resumed_at(self, name: str) -> int:
        """The iteration at which its last process began."""
        record = read_record(self._folder(name) / "record.json")
        assert record is not None
        return int(record.facts.get("resumed_at", 0))

    def _folder(self, name: str) -> Path:
        (file,) = self._data.with_name(name).glob("results/store/train/*/record.json")
        return file.parent


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
    return f"weights differ by {_apart(trainings, 'two'):.0e}"


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
    resumed_at = trainings.resumed_at("killed")
    if not resumed_at:
        raise RuntimeError("the training began anew")
    return f"resumed at iteration {resumed_at}; weights differ by {_apart(trainings, 'killed'):.0e}"


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


def _apart(trainings: Trainings, name: str) -> float:
    """Distance of a training's weights from those of the first, relative to their norm."""
    first = trainings.weights("one")
    return float((trainings.weights(name) - first).norm() / first.norm())
