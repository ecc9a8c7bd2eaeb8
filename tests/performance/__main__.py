"""``python -m tests.performance [TOPIC...]``: measure, and write ``results/performance.md``."""

import argparse
import importlib
import os
import platform
import re
import sys
from datetime import date
from pathlib import Path

import torch

from benchmark.files import write_text

from .measuring import ROOT

# in the order of the file; each is a module beside this one with `section() -> str`, Markdown from "## " on
TOPICS = (
    "balms",
    "retraining",
    "shared_passes",
    "training",
    "loading",
    "masks",
    "class_statistics",
    "intermediates",
    "evaluation",
)

RESULT = ROOT / "results" / "performance.md"
HEAD = """\
# Performance

What the claims about speed and memory rest on, as it came out. `make performance` measures all of it again,
`make performance TOPICS="balms retraining"` only some sections (each a file in `tests/performance/`); the
others stay as they are. Ratios carry over to other machines better than seconds do.
"""
MARK = "<!-- topic: {} -->\n"


def machine() -> str:
    """Processor, memory, versions, GPU, current load and date, on one line."""
    # the name of the processor is in no portable place
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.M)
    processor = names[0] if names else platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{processor}, {os.cpu_count()} cores, {memory:.0f} GB of memory, {gpu}; {platform.system()}, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}; "
        f"load average {os.getloadavg()[2]:.0f}; {date.today()}"
    )


def main(topics: list[str]) -> None:
    """Measure ``topics``; keeps the sections of other topics in the file."""
    old = RESULT.read_text(encoding="utf-8") if RESULT.exists() else ""
    parts = re.split(MARK.format(r"(\w+)"), old)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for topic in topics:
        print(f"{topic} ...", file=sys.stderr, flush=True)
        text = importlib.import_module(f"tests.performance.{topic}").section()
        sections[topic] = f"{text.strip()}\n\nMeasured on: {machine()}.\n"
        # after each, so that a failure in one does not lose the others
        kept = [MARK.format(name) + sections[name].strip() + "\n" for name in TOPICS if name in sections]
        write_text(RESULT, "\n".join([HEAD, *kept]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.performance", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=", ".join(TOPICS))
    chosen = parser.parse_args().topics
    unknown = sorted(set(chosen) - set(TOPICS))
    if unknown:
        parser.error(f"unknown topic {', '.join(unknown)}; there are {', '.join(TOPICS)}")
    main(chosen or list(TOPICS))
