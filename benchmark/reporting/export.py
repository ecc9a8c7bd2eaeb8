"""Export of everything that is needed to reproduce one row, as a folder or zip file."""

import re
import shlex
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmark.errors import BenchmarkError
from benchmark.files import atomic_path, write_json, write_text
from benchmark.recipes import lineage
from benchmark.recipes.models import Run
from benchmark.recipes.paths import PROGRESS, RECORD
from benchmark.recipes.plugins import Plugin
from benchmark.recipes.project import project_root
from benchmark.records import Record, code_version
from benchmark.reporting.citations import bibtex
from benchmark.reporting.collect import HEADLINE, RunResult, collect_run
from benchmark.reporting.crate import write_crate_metadata
from benchmark.steps.store import in_results

NUMBERS = {"evaluate": ("metrics.json", "per_class.csv", "calibration.csv"), "predict": ("weight_norms.csv",)}
"""Files of steps that are copied into the export."""


DIRTY = "-dirty"
"""What ``git describe`` adds where files were edited since the commit."""


class ExportError(BenchmarkError):
    """A run cannot be exported."""


def export(run: Run, output: Path) -> list[str]:
    """Write recipes, commands, records, method code, numbers and hashes of a finished run.

    The folder is a Workflow Run RO-Crate (``ro-crate-metadata.json``). ``output`` is a zip file if its name
    ends in .zip, else a folder, which must not exist. It contains the hashes of weights, detections and
    images, but not the files. Returns the names of the files. Raises ``ExportError`` for a run that is not
    done or a folder that exists, ``FileError`` if it cannot be written.
    """
    result = collect_run(run, None)
    if not result.done:
        raise ExportError(f"'{run.title}' has no result to export", found=result.status)
    if output.suffix != ".zip" and output.exists():
        raise ExportError("the folder exists already", where=output, remedy="choose another name")
    with tempfile.TemporaryDirectory(prefix="longtail-export-") as temporary:
        folder = Path(temporary) / "cell"
        _fill(result, folder)
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        if output.suffix == ".zip":
            with atomic_path(output) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in names:  # with fixed times, so that the same content has the same bytes
                    archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())
        else:
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, output)
    return names


def _fill(result: RunResult, folder: Path) -> None:
    run = result.run
    write_json(folder / "recipe.json", _movable(run).model_dump(mode="json", by_alias=True))
    for item in lineage(run):
        code = Path(item.plugin_path)
        shutil.copytree(
            code,
            folder / "methods" / code.name,
            ignore=shutil.ignore_patterns("__pycache__", ".*"),
            dirs_exist_ok=True,
        )
        if item.dataset.synthetic is not None:
            text = yaml.safe_dump(
                item.dataset.model_dump(mode="json", exclude={"paper"}, exclude_none=True), sort_keys=False
            )
            write_text(folder / f"{item.dataset.name}.yaml", text)
    records = []
    for step, record in ((item.step, item.record) for item in result.steps):
        if record is not None:
            records.append(record)
            for name in (RECORD, PROGRESS):
                if (step.folder / name).exists():
                    target = folder / "records" / step.place / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(step.folder / name, target)
    write_text(folder / "hashes.sha256", "".join(f"{line}\n" for line in _hashes(result)))
    for step_name, names in NUMBERS.items():
        for name in names:
            if result.file(step_name, name).exists():
                shutil.copy(result.file(step_name, name), folder)
    constraints = project_root() / "envs" / "constraints.txt"
    if constraints.exists():
        shutil.copy(constraints, folder)
    write_text(folder / "commands.sh", _commands(result))
    changes = _changes([record.code_version for record in records])
    if changes:
        write_text(folder / "changes.patch", changes)
    write_text(folder / "README.md", _readme(result, records, bool(changes)))
    write_crate_metadata(folder, run, records)


def _movable(run: Run) -> Run:
    """The recipe with the folders to which the methods are to be copied according to README.md."""
    base = _movable(run.base) if run.base is not None else None
    return run.model_copy(update={"plugin_path": f"methods/{Path(run.plugin_path).name}", "base": base})


def _hashes(result: RunResult) -> list[str]:
    """Lines for ``sha256sum``: hashes and paths of the outputs of the steps, from their records."""
    return [
        f"{output.sha256}  {in_results(item.step.folder / output.name)}"
        for item in result.steps
        for output in (item.record.outputs if item.record is not None else [])
        if output.sha256 is not None
    ]


def _commands(result: RunResult) -> str:
    """The commands of the steps, with the recipe of the export, to run in a checkout of the project."""
    lines = [
        "#!/usr/bin/env bash",
        "# In a checkout of the project at the code version of the records: bash FOLDER/commands.sh",
        "# Results go to results/store, as in the original run. The number of threads, which changes the",
        "# last bits, is set to that of the records.",
        "set -euo pipefail",
        'here="$(cd "$(dirname "$0")" && pwd)"',
    ]
    for step, record in ((item.step, item.record) for item in result.steps):
        threads = record.facts.get("threads") if record is not None else None
        before = [f"OMP_NUM_THREADS={threads}"] if threads else []
        command = ["longtail", "make", '"$here"/recipe.json', shlex.quote(step.place)]
        lines.append(" ".join([*before, *command]))
    made = shlex.quote(in_results(result.file("evaluate", "metrics.json")))
    lines.append(f'diff "$here"/metrics.json {made} && echo "the same numbers"')
    return "\n".join(lines) + "\n"


def _changes(versions: Sequence[str]) -> str:
    """The uncommitted changes outside of ``methods``, if the records were made with them."""
    if code_version() not in versions or not code_version().endswith(DIRTY):
        return ""
    git = ["git", "--no-optional-locks", "-C", str(project_root())]
    command = [*git, "diff", "HEAD", "--", "benchmark", "workflows"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _edited(versions: Sequence[str]) -> str:
    """A note on the code outside of ``methods`` for an export without a patch."""
    if any(version.endswith(DIRTY) for version in versions):
        return "the project had edits that had not been committed: those outside of methods/ are not here"
    return "nothing else: the project was as committed"


def _revision(version: str) -> str:
    """The argument for ``git checkout``: the description of a commit, or the tag of a release."""
    plain = version.removesuffix(DIRTY)
    return f"v{plain}" if re.fullmatch(r"\d+(\.\d+)+", plain) else plain


def _readme(result: RunResult, records: list[Record], patched: bool) -> str:
    run = result.run
    paper = Plugin(run.method, Path(run.plugin_path)).method.paper
    numbers = ", ".join(
        f"{iou} {key} {values[key] * 100:.2f}"  # type: ignore[operator]  # None is left out
        for iou, values in result.metrics.items()
        for key in HEADLINE
        if values.get(key) is not None
    )
    versions = sorted({record.code_version for record in records})
    last = max(records, key=lambda record: record.started)
    return f"""# {run.title} on {run.dataset.title}, seed {run.seed}

{numbers} (percent).

Made with the project at {", ".join(versions)}. To make it again, in a checkout of the project, with this
folder at `EXPORT`:

```
git checkout {_revision(last.code_version)}
cp -r EXPORT/methods/. methods/    # the methods' code as it was, of your own and of the project
{"git apply EXPORT/changes.patch" if patched else "# " + _edited(versions)}
bash EXPORT/commands.sh
```

| file | what it is |
| --- | --- |
| `recipe.json` | every value of the run and of the runs that it starts from |
| `commands.sh` | the steps, to run in a checkout of the project |
| `records/` | what ran: commands, code and package versions, hardware, hashes of inputs; training curves |
| `methods/` | the methods' code as it was exported |
| `metrics.json`, `per_class.csv` | the numbers |
| `hashes.sha256` | statistics, weights and detections: `sha256sum -c hashes.sha256` where results/ lies |
| `constraints.txt` | exact versions of all packages |
| `ro-crate-metadata.json` | all of this as a Workflow Run RO-Crate |

```bibtex
{bibtex(paper) if paper.title else "% no paper"}
```
"""
