"""The picture of the rules in the README, drawn from Snakemake's own graph of an experiment on real files.

python -m tests.workflow.rule_graph    writes it there; `make shown` does
"""

import re
import sys
import tempfile
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as pytest does

from project_copy import ROOT, copy_project

README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- rule graph: make shown -->\n).*?(<!-- end -->)", re.DOTALL)
METHODS = ("bags", "bags+others_1", "simcal+shared_base", "ncm_fc")  # between them they have every rule
HANDED_OVER = ("prepare", "check")  # files in the data folder, which are no outputs


def rule_graph(folder: Path) -> str:
    """Mermaid's text of the rules that a table on real files takes, every edge that follows from others left
    out."""
    project = copy_project(folder)
    project.longtail("synthesize", "synthetic_tiny", "-o", "data/own")
    split = {"images": "own/images"}
    places = {name: {"annotations": f"own/{name}.json", **split} for name in ("train", "val")}
    dataset = {"name": "own", "title": "Own", "categories": 6, **places}
    (folder / "workflows/datasets/own.yaml").write_text(yaml.safe_dump(dataset))
    row = {"detector": "torchvision/tiny_mask_rcnn", "dataset": "own"}
    rows = [{"id": str(number), "method": method, **row} for number, method in enumerate(METHODS)]
    experiment = {"name": "own", "title": "Own", "budget": "tiny", "rows": rows}
    (folder / "workflows/experiments/own.yaml").write_text(yaml.safe_dump(experiment))
    text = project.snakemake("prepare", "all", "--rulegraph", "mermaid-js", experiment="own").stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", text))
    edges = {(names[first], names[second]) for first, second in re.findall(r"(id\d+) --> (id\d+)", text)}
    kept = sorted(edge for edge in edges if not _leads(*edge, edges - {edge}))
    lines = [f"  {first} --> {second}" for first, second in kept] + ["  {} -.-> {}".format(*HANDED_OVER)]
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```"]) + "\n"


def _leads(first: str, last: str, edges: set[tuple[str, str]]) -> bool:
    """Whether there is a way from one rule to another."""
    reached, new = {first}, {first}
    while new:
        new = {after for before, after in edges if before in new} - reached
        reached |= new
    return last in reached - {first}


def shown() -> str:
    """What the README has."""
    found = BLOCK.search(README.read_text())
    assert found is not None
    return found[0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        graph = rule_graph(Path(place))
    README.write_text(BLOCK.sub(lambda match: match[1] + graph + match[2], README.read_text()))
