"""ARCHITECTURE.md from the real imports and the docstrings: ``python docs/architecture.py`` writes it."""

import ast
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import grimp
import networkx

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "ARCHITECTURE.md"

_START = """\
# Architecture

Written by `make architecture` from the imports and docstrings of the code; a test compares them.

Snakemake runs one command for each step (`workflows/rules/steps.smk`); `benchmark/cli.py` has the commands. A
method is a folder in `methods/`, found through its manifest; it imports only a few packages of `benchmark/`.

## Packages

An arrow leads from a package to one that it imports; transitive arrows are omitted."""
_RULES = """\
## Rules

`make lint` checks these rules with import-linter (`pyproject.toml`)."""


def architecture() -> str:
    """The text of the page."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers, *others = settings["contracts"]
    graph = grimp.build_graph(*settings["root_packages"], cache_dir=None)
    imports = _imports(graph)
    parts = [
        _START,
        _diagram(imports, layers["ignore_imports"]),
        _table(imports),
        _RULES,
        _rules(layers, others),
    ]
    return "\n\n".join(parts) + "\n"


def _imports(graph: Any) -> dict[str, set[str]]:
    """What every package, and every module outside of one, imports from the others."""
    found: dict[str, set[str]] = defaultdict(set)
    for module in sorted(graph.modules):
        name = _part(module)
        found[name] |= {_part(item) for item in graph.find_modules_directly_imported_by(module)} - {name}
    return {name: found[name] for name in sorted(found) if name != "benchmark"}


def _part(module: str) -> str:
    """``classifiers`` of ``benchmark.classifiers.links``; all methods are one."""
    top, _, rest = module.partition(".")
    return rest.partition(".")[0] or top if top == "benchmark" else top


def _diagram(imports: dict[str, set[str]], exceptions: list[str]) -> str:
    """The packages, without modules that stand alone and imports that are exceptions to the rule."""
    left_out = {tuple(_part(name) for name in line.split(" -> ")) for line in exceptions}
    packages = {
        name for name in imports if name in ("cli", "methods") or (ROOT / "benchmark" / name).is_dir()
    }
    edges = [(name, item) for name in packages for item in imports[name] if item in packages]
    reduced = networkx.transitive_reduction(networkx.DiGraph(edge for edge in edges if edge not in left_out))
    lines = [f"  {first} --> {last}" for first, last in sorted(reduced.edges)]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def _table(imports: dict[str, set[str]]) -> str:
    lines = ["| in `benchmark/` | what it is for | imports |", "| --- | --- | --- |"]
    for name, items in imports.items():
        if name != "methods":
            text = " ".join(_docstring(ROOT / "benchmark" / name).split())
            lines.append(f"| `{name}` | {text} | {', '.join(sorted(items)) or 'nothing'} |")
    return "\n".join(lines)


def _docstring(path: Path) -> str:
    """The first paragraph of a package's or a module's docstring."""
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0].replace("``", "`")


def _rules(layers: dict[str, Any], others: list[dict[str, Any]]) -> str:
    lines = [
        f"- {layers['name']}, in this order (modules of one line: with `|` they do not import each other, "
        "with `:` they may):"
    ]
    lines += [f"    1. {line}" for line in layers["layers"]]
    lines += [f"- {contract['name']}." for contract in others]
    exceptions = [line for contract in (layers, *others) for line in contract.get("ignore_imports", [])]
    return "\n".join(
        [
            *lines,
            "- Exceptions, with their reasons in `pyproject.toml`:",
            *(f"    - `{line}`" for line in exceptions),
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(architecture())
