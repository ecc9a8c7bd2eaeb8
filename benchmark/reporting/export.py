"""Everything that is needed to make one row's numbers again, in one folder or zip file."""

import json
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmark.errors import BenchmarkError
from benchmark.files import atomic_path, sha256_file, write_json, write_text
from benchmark.recipes.models import Run
from benchmark.recipes.paths import (
    annotations_path,
    checkpoint_path,
    dataset_folder,
    final_checkpoint_path,
    initial_checkpoint_path,
    record_path,
    run_folder,
    statistics_path,
)
from benchmark.recipes.plugins import Plugin
from benchmark.recipes.project import project_root, shown
from benchmark.records import read_record
from benchmark.reporting.citations import bibtex
from benchmark.reporting.collect import collect_run, lineage, own_stages


class ExportError(BenchmarkError):
    """A run that cannot be exported."""


def export(run: Run, output: Path) -> list[str]:
    """Write recipes, commands, records, method code, numbers and hashes of a finished run.

    ``output`` is a zip file where it ends so, else a folder, which must not exist. Weights, detections and
    images are not in it, but their hashes. Returns the names of the files. Raises ``ExportError`` for a run
    that is not done or a folder that exists, ``FileError`` where it cannot be written.
    """
    result = collect_run(run, None)
    if not result.done:
        raise ExportError(
            f"'{run.title}' has no result to export", where=run_folder(run), found=result.status
        )
    if output.suffix != ".zip" and output.exists():
        raise ExportError("the folder exists already", where=output, remedy="choose another name")
    with tempfile.TemporaryDirectory(prefix="longtail-export-") as temporary:
        folder = Path(temporary) / "cell"
        _fill(run, folder)
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        if output.suffix == ".zip":
            with atomic_path(output) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in names:  # with fixed times: the same content has the same bytes
                    archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())
        else:
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, output)
    return names


def _fill(run: Run, folder: Path) -> None:
    runs = lineage(run)
    for item in runs:
        relative = item.model_copy(update={"plugin_path": shown(Path(item.plugin_path))})
        write_json(folder / _recipe(item), relative.model_dump(mode="json", by_alias=True))
        code = Path(item.plugin_path)
        shutil.copytree(
            code,
            folder / "methods" / code.name,
            ignore=shutil.ignore_patterns("__pycache__", ".*"),
            dirs_exist_ok=True,
        )
    if run.dataset.synthetic is not None:
        text = yaml.safe_dump(
            run.dataset.model_dump(mode="json", exclude={"paper"}, exclude_none=True), sort_keys=False
        )
        write_text(folder / f"{run.dataset.name}.yaml", text)
    outputs = list(_outputs(run))
    for output in outputs:
        record = record_path(output)
        if record.exists():
            _copy(record, folder / "records")
        progress = output.with_name("progress.jsonl")
        if progress.exists():
            _copy(progress, folder / "records")
    hashes = [f"{sha256_file(path)}  {path}" for path in _hashed(run, outputs)]
    write_text(folder / "hashes.sha256", "\n".join(hashes) + "\n")
    for name in ("metrics.json", "per_class.csv", "calibration.csv", "weight_norms.csv"):
        if (run_folder(run) / name).exists():
            shutil.copy(run_folder(run) / name, folder)
    constraints = project_root() / "envs" / "constraints.txt"
    if constraints.exists():
        shutil.copy(constraints, folder)
    write_text(folder / "commands.sh", _commands(run))
    write_text(folder / "README.md", _readme(run))


def _outputs(run: Run) -> Iterator[Path]:
    for item in lineage(run):
        for stage in own_stages(item):
            yield checkpoint_path(item, stage.name)
    yield run_folder(run) / "detections.parquet"
    yield run_folder(run) / "metrics.json"


def _hashed(run: Run, outputs: list[Path]) -> Iterator[Path]:
    inputs = [annotations_path(run.dataset, split) for split in ("train", "val")]
    yield from (path for path in [*inputs, statistics_path(run.dataset), *outputs] if path.exists())


def _copy(path: Path, folder: Path) -> None:
    """Under its whole path, so that files of the same name do not meet."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def _recipe(run: Run) -> str:
    variant = f"+{run.variant}" if run.variant else ""
    return f"recipes/{run.method}{variant}.json"


def _commands(run: Run) -> str:
    """The steps by hand, with the recipes of the export, run in a checkout of the project."""
    lines = [
        "#!/usr/bin/env bash",
        "# In a checkout of the project at the code version of the records: bash FOLDER/commands.sh",
        "# Results go to results/, where they lay before. The last bits depend on the number of threads:",
        "# it is that of the records.",
        "set -euo pipefail",
        'here="$(cd "$(dirname "$0")" && pwd)"',
    ]

    def quoted(word: object) -> str:
        own = str(word).startswith("recipes/")
        return ('"$here"/' if own else "") + shlex.quote(str(word))

    def add(*words: object, output: Path | None = None) -> None:
        record = read_record(record_path(output)) if output else None
        threads = record["facts"].get("threads") if record else None
        before = [f"OMP_NUM_THREADS={threads}"] if threads else []
        after = ["-o", shlex.quote(str(output))] if output else []
        lines.append(" ".join([*before, "longtail", *map(quoted, words), *after]))

    if run.dataset.synthetic is not None:
        lines.append(f'longtail synthesize "$here"/{run.dataset.name}.yaml -o {dataset_folder(run.dataset)}')
    add("stats", annotations_path(run.dataset, "train"), output=statistics_path(run.dataset))
    for item in lineage(run):
        for stage in own_stages(item):
            start = initial_checkpoint_path(item, stage.name)
            init = ["--init", start] if start else []
            add("train", _recipe(item), stage.name, *init, output=checkpoint_path(item, stage.name))
    folder = run_folder(run)
    add("predict", _recipe(run), "-c", final_checkpoint_path(run), output=folder / "detections.parquet")
    add(
        *("evaluate", "--gt", annotations_path(run.dataset, "val"), "--dt", folder / "detections.parquet"),
        *("--statistics", statistics_path(run.dataset), "--max-detections", run.test.max_detections),
        *("-o", folder / "metrics.json", "--per-class", folder / "per_class.csv"),
        *("--calibration", folder / "calibration.csv"),
    )
    made = shlex.quote(str(folder / "metrics.json"))
    lines.append(f'diff "$here"/metrics.json {made} && echo "the same numbers"')
    return "\n".join(lines) + "\n"


def _readme(run: Run) -> str:
    paper = Plugin(run.method, Path(run.plugin_path)).method.paper
    metrics = json.loads((run_folder(run) / "metrics.json").read_text())
    numbers = ", ".join(
        f"{iou} {key} {values[key] * 100:.2f}"
        for iou, values in metrics.items()
        for key in ("AP", "APr", "APc", "APf")
        if values.get(key) is not None
    )
    return f"""# {run.title} on {run.dataset.title}, seed {run.seed}

{numbers} (percent).

| file | what it is |
| --- | --- |
| `recipes/` | every value of the run and of the runs that it starts from |
| `commands.sh` | the steps, to run in a checkout of the project |
| `records/` | what ran: commands, code and package versions, hardware, hashes of inputs; training curves |
| `methods/` | the methods' code as it was exported |
| `metrics.json`, `per_class.csv` | the numbers |
| `hashes.sha256` | data, weights and detections: `sha256sum -c hashes.sha256` where results/ lies |
| `constraints.txt` | exact versions of all packages |

```bibtex
{bibtex(paper) if paper.title else "% no paper"}
```
"""
