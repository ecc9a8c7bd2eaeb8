"""``python -m tests.gpu``: what only a GPU can show, in nine minutes, into ``results/gpu/DEVICE.md``.

Each topic is a module beside this one with ``report(dry)``, which prints Markdown as it goes. It runs in a
process of its own with a time limit of its own; one that fails, or is not finished in time, leaves what it
has printed and the reason, and the others go on. Topics that measure time run alone. The file is written
after every topic. A second call runs only what is missing. ``--dry`` does all of it on the CPU at tiny size.
"""

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from benchmark.files import write_text
from benchmark.records import code_version
from tests.gpu.common import own_leases

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {
    "methods": 120,
    "agreement": 120,
    "interruptions": 120,
    "training": 210,
    "retraining": 90,
    "prediction": 50,
    "synthetic_lvis": 200,
}
"""Seconds that each topic may take, in the order of what they are worth."""
TOGETHER = ("methods", "agreement", "interruptions")
"""Topics that run side by side, before the others: they compare, and measure no time."""
DRY = 10  # times the limits: a CPU may have other work
LEAST = 10.0  # seconds without which a topic is not begun
TAIL = 25  # lines of a failed topic's messages
HEAD = """\
# On {device}

What only a GPU can show, as it came out of `make gpu`, which runs what is missing here; `make gpu
TOPICS="training"` measures some topics anew.
"""
MARK = "<!-- topic: {name}, {state} -->\n"
_PARTS = re.compile(MARK.format(name=r"(\w+)", state=r"(\w+)"))


@dataclass(frozen=True)
class Section:
    """The result of a topic: its state (``done``, ``failed``, ``late``), text, and the seconds it took."""

    state: str
    text: str
    seconds: float = 0.0


def main() -> int:
    """Run topics; exit status 1 if one of them is not done."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"run anew: {', '.join(LIMITS)}")
    parser.add_argument("--dry", action="store_true", help="on the CPU, at tiny size")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it; default: 9")
    parser.add_argument("--output", type=Path, help="the Markdown file")
    parser.add_argument("--place", type=Path, help="folder for what is made on the way; kept")
    parser.add_argument("--only", metavar="TOPIC", help=argparse.SUPPRESS)  # in the process of a topic
    options = parser.parse_args()
    if unknown := sorted(set(options.topics) - LIMITS.keys()):
        parser.error(f"unknown topic {', '.join(unknown)}; there are {', '.join(LIMITS)}")
    if options.only:
        name, _, function = options.only.partition(":")
        getattr(importlib.import_module(f"tests.gpu.{name}"), function or "report")(options.dry)
        return 0
    device = _device(options.dry)
    kind = "dry" if options.dry else "gpu"
    place = options.place or Path(tempfile.gettempdir()) / f"longtail-{kind}-{os.getuid()}"
    name = re.sub(r"\W+", "_", device).strip("_").lower()
    output = options.output or (place / "dry.md" if options.dry else ROOT / "results" / "gpu" / f"{name}.md")
    return _run(options.topics, output.resolve(), place.resolve(), device, options.dry, 60 * options.minutes)


def _run(again: list[str], output: Path, place: Path, device: str, dry: bool, seconds: float) -> int:
    """Run the topics that are missing in ``output``, and those in ``again``."""
    end = time.monotonic() + seconds
    place.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    sections = _read(output)
    wanted = [name for name in LIMITS if name in again or (not again and not _is_done(sections, name))]
    with (place / "prepare.log").open("w") as log:  # generates images while the first topics use the GPU
        needed = "synthetic_lvis" in wanted
        ahead = _start("synthetic_lvis:prepare", place, dry, log, log) if needed else None
        together = [name for name in wanted if name in TOGETHER]
        for names in (together, *([name] for name in wanted if name not in TOGETHER)):
            if ahead is not None and names != together:  # what measures time has the processors for itself
                _ended_in(ahead, end - time.monotonic() - LEAST)
            if end - time.monotonic() < LEAST:
                print("".join(f"{name}: no time left\n" for name in names), end="", file=sys.stderr)
                continue
            limits = {name: min(LIMITS[name] * (DRY if dry else 1), end - time.monotonic()) for name in names}
            with ThreadPoolExecutor(max(len(names), 1)) as pool:
                ended = {pool.submit(_topic, name, place, dry, limit): name for name, limit in limits.items()}
                for future in as_completed(ended):
                    sections[ended[future]] = future.result()
                    _write(output, device, sections)
        if ahead is not None:
            _ended_in(ahead, 0)
    print(output)
    return 0 if all(_is_done(sections, name) for name in LIMITS) else 1


def _write(output: Path, device: str, sections: dict[str, Section]) -> None:
    known = [
        MARK.format(name=topic, state=sections[topic].state) + sections[topic].text.strip() + "\n"
        for topic in LIMITS
        if topic in sections
    ]
    write_text(output, "\n".join([HEAD.format(device=device), *known]))


def _topic(name: str, place: Path, dry: bool, limit: float) -> Section:
    """Run a topic in a process of its own."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    section = _ended(name, place, dry, limit)
    print(f"{name}: {section.state} after {section.seconds:.0f} s", file=sys.stderr, flush=True)
    return section


def _ended(name: str, place: Path, dry: bool, limit: float) -> Section:
    begin, log = time.monotonic(), place / f"{name}.log"
    with (place / f"{name}.md").open("w+") as text, log.open("w") as messages:
        process = _start(name, place, dry, text, messages)
        in_time = _ended_in(process, limit)
        text.seek(0)
        found = text.read().strip() or f"## {name}"
    took = time.monotonic() - begin
    if in_time and process.returncode == 0:
        return Section("done", f"{found}\n\n{_conditions()}; {took:.0f} s.", took)
    last = _without_folders("\n".join(log.read_text().splitlines()[-TAIL:]))
    why = f"Failed after {took:.0f} s" if in_time else f"Not finished within {took:.0f} s"
    state = "failed" if in_time else "late"
    return Section(state, f"{found}\n\n{why}; {_conditions()}.\n\n```\n{last}\n```", took)


def _without_folders(text: str) -> str:
    """Messages for a page that others read: files without the folders of this machine."""
    for folder in sorted({*sys.path, str(ROOT)} - {""}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    return text


def _start(topic: str, place: Path, dry: bool, out: object, messages: object) -> "subprocess.Popen[bytes]":
    """Start the process of a topic, in its own process group."""
    command = [sys.executable, "-u", "-m", "tests.gpu", "--only", topic, *(["--dry"] if dry else [])]
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= own_leases(topic)
    if topic in TOGETHER:  # else each would have a thread for every core
        environment |= {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 8))}
    if dry:
        environment |= {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdout=out,  # type: ignore[arg-type]
        stderr=messages,  # type: ignore[arg-type]
        start_new_session=True,
    )


def _ended_in(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Whether a process ends by itself in time; otherwise it is killed with its children."""
    try:
        process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    return True


def _is_done(sections: dict[str, Section], name: str) -> bool:
    return name in sections and sections[name].state == "done"


def _read(file: Path) -> dict[str, Section]:
    """Sections of an earlier call."""
    parts = _PARTS.split(file.read_text(encoding="utf-8")) if file.is_file() else [""]
    return {
        name: Section(state, text)
        for name, state, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


def _device(dry: bool) -> str:
    if dry:
        return "no GPU (dry run)"
    import torch

    if not torch.cuda.is_available():
        sys.exit("error: no GPU is visible to PyTorch; --dry runs everything on the CPU at tiny size")
    return torch.cuda.get_device_name()


def _conditions() -> str:
    """Code, versions and machine on one line."""
    from tests.performance.__main__ import machine

    return f"code {code_version()}, {machine()}"


if __name__ == "__main__":
    sys.exit(main())
