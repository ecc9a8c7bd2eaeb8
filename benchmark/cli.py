"""The command ``longtail``: one thin command per step. Results go to stdout, messages to stderr.

Exit status: 0 done, 1 a check or verdict did not hold, 2 bad input or usage, 3 interrupted and resumable.
"""

import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from textwrap import indent
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.core import TyperGroup

from benchmark.errors import BenchmarkError
from benchmark.notices import data_warnings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.datasets import Prepared

app = typer.Typer(
    name="longtail",
    help="Long-tailed instance segmentation, from annotations to the paper's table.",
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(help="Get data sets ready.", no_args_is_help=True)
app.add_typer(data_app, name="data")


class Kind(StrEnum):
    """What ``longtail list`` can list."""

    methods = "methods"
    detectors = "detectors"
    datasets = "datasets"
    experiments = "experiments"


class Source(StrEnum):
    """Whose names and orders a file of weights follows."""

    balms = "balms"
    bags = "bags"
    simcal = "simcal"
    gol = "gol"
    mmdet = "mmdet"
    detectron2 = "detectron2"
    torchvision = "torchvision"


class Iou(StrEnum):
    """What overlaps are computed on."""

    bbox = "bbox"
    segm = "segm"


_FIRST = """\
Make a results table
  longtail plan smoke            what it takes: jobs, hours, disk, missing files
  snakemake --workflow-profile workflows/profiles/local --config experiment=smoke
  longtail status smoke          how far it is; the table is results/experiments/smoke/table.md

Compare a method of your own with the others
  longtail new-method my_loss    a folder that works; then change it, and name it in an experiment

Evaluate detections
  longtail evaluate --gt val.json --dt results.json
"""


def _experiment_names(incomplete: str) -> list[str]:
    """What the shell completes an experiment with, and before the colon a recipe."""
    from benchmark.recipes.catalog import yaml_files

    return [name for name in yaml_files("experiments") if name.startswith(incomplete)]


def _dataset_names(incomplete: str) -> list[str]:
    """What the shell completes a dataset with."""
    from benchmark.recipes.catalog import yaml_files

    return [name for name in yaml_files("datasets") if name.startswith(incomplete)]


Experiment = Annotated[
    str, typer.Argument(help="experiment name or YAML file", autocompletion=_experiment_names)
]
Annotations = Annotated[Path, typer.Argument(help="LVIS- or COCO-format JSON file", metavar="ANN")]
Recipe = Annotated[
    str,
    typer.Argument(
        help="EXPERIMENT:ROW or EXPERIMENT:ROW:SEED, e.g. smoke:rfs",
        metavar="RECIPE",
        autocompletion=_experiment_names,
    ),
]
Attempt = Annotated[
    int,
    typer.Option(min=1, help="the workflow's count of tries: what must fail again is not tried twice"),
]
Devices = Annotated[int, typer.Option(min=0, help="GPUs, one process for each; 0: the CPU, GPUs left alone")]
ImagesAtOnce = Annotated[
    int | None,
    typer.Option(min=1, help="images of a training pass, where memory is short; same result"),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="where the result goes")]
Heads = Annotated[
    list[Path] | None,
    typer.Option(
        "--head", help="SimCal's calibrated head, a file of its own; of a cascade one for each stage"
    ),
]


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _report(line: str) -> None:
    typer.echo(line, err=True)


@app.callback()
def first(context: typer.Context) -> None:
    """Long-tailed instance segmentation, from annotations to the paper's table."""
    if context.invoked_subcommand is None:
        typer.echo(_FIRST)
        typer.echo(context.get_help())


@app.command()
def check(
    annotations: Annotations,
    val: Annotated[
        Path | None, typer.Option(help="validation file; also check that it fits ANN, the training file")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="image folder; also open every image file")] = None,
    val_images: Annotated[
        Path | None, typer.Option(help="image folder of the validation file [default: --images]")
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="with --val: every annotation needs a mask, for mask models")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes that open image files [default: one a core]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable problems")] = False,
) -> None:
    """Report every problem of annotation and image files at once: what any other command would refuse.

    Exit status 2 if one is an error, 1 if there are only warnings: what training and evaluation cope with.
    """
    from benchmark.annotations import check_annotations, check_dataset, counted, problems_text
    from benchmark.annotations.image_files import usable_cores
    from benchmark.progress import shown_progress

    if val is None and (val_images is not None or masks):
        raise BenchmarkError(
            "--val-images and --masks are for two files", remedy="give the second with --val"
        )
    processes = workers or usable_cores()
    with shown_progress("image files") as progress:
        if val is None:
            problems = check_annotations(annotations, images, workers=processes, progress=progress)
        else:
            problems = check_dataset(
                annotations, val, images, val_images, masks=masks, workers=processes, progress=progress
            )
    if as_json:
        _print_json([problem.as_dict() for problem in problems])
    elif problems:
        typer.echo(problems_text(problems))
    totals = counted(problems)
    total = sum(totals.values())
    kinds = ", ".join(f"{count:,} {kind}{'s' * (count != 1)}" for kind, count in totals.items())
    words = f"{total:,} problem{'s' * (total != 1)}" + (f": {kinds}" if total else "")
    typer.echo(f"{annotations}{f' and {val}' if val else ''}: {words}", err=True)
    if problems:
        raise typer.Exit(2 if totals["error"] else 1)


@app.command()
def subset(
    annotations: Annotations,
    images: Annotated[int, typer.Option(min=1, help="number of images to keep")],
    output: Output,
    val: Annotated[
        Path | None, typer.Option(help="validation file to draw with ANN, the training file, alike")
    ] = None,
    val_images: Annotated[int | None, typer.Option(min=1, help="number of validation images to keep")] = None,
    val_output: Annotated[Path | None, typer.Option(help="where the validation subset goes")] = None,
    categories: Annotated[
        int | None, typer.Option(min=1, help="number of categories to keep, evenly over their frequencies")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="category to keep, by name or id; repeat for more [default: all]")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="category to leave out, by name or id; repeat for more")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the draw")] = 0,
) -> None:
    """Draw a subset with at least one image of every category that has one; counts are recomputed.

    With --val, the validation file keeps the same categories, and its letters are those of the training
    subset.
    """
    from benchmark.annotations import Choice, subset_annotations, subset_pair

    choice = Choice(categories, tuple(keep or ()), tuple(drop or ()))
    if val is None and val_images is None and val_output is None:
        typer.echo(subset_annotations(annotations, output, images, seed, choice), err=True)
        return
    if val is None or val_images is None or val_output is None:
        given = {"--val": val, "--val-images": val_images, "--val-output": val_output}
        raise BenchmarkError(
            "a validation file needs three options",
            found=", ".join(name for name, value in given.items() if value is not None),
            expected=", ".join(given),
        )
    lines = subset_pair(
        annotations, val, output, val_output, images=images, val_images=val_images, seed=seed, choice=choice
    )
    typer.echo(lines, err=True)


@app.command()
def synthesize(
    dataset: Annotated[str, typer.Argument(help="name of a synthetic dataset, or its YAML file")],
    output: Output,
) -> None:
    """Generate a synthetic dataset: images/, train.json and val.json in the output folder."""
    from benchmark.annotations import synthesize_dataset
    from benchmark.recipes import load_dataset

    model = load_dataset(dataset)
    if model.synthetic is None:
        raise BenchmarkError(
            f"dataset '{model.name}' is not synthetic", remedy="longtail list datasets shows which are"
        )
    typer.echo(synthesize_dataset(model.synthetic, output), err=True)


@data_app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(help="dataset name or YAML file", autocompletion=_dataset_names)],
    data: Annotated[
        Path | None, typer.Option(help="folder of the data sets [default: $LONGTAIL_DATA, or data]")
    ] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO folder that is there already, to link to")] = None,
    stuff_maps: Annotated[
        bool, typer.Option("--stuff-maps", help="also what only detectors with a semantic branch (HTC) need")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable files")] = False,
) -> None:
    """Check, link, fetch or rebuild every file of a dataset; say what to put where for the others.

    Exit status 1 if a file is missing. Run it again after an interruption and it continues.
    """
    from benchmark.datasets import Prepared, prepare_dataset
    from benchmark.recipes import load_dataset
    from benchmark.recipes.paths import data_folder
    from benchmark.steps import made_dataset

    model = load_dataset(dataset)
    if model.synthetic is not None:
        made = made_dataset(model)
        files = [Prepared(path, True, "generated") for path in (made.train, made.val)]
    else:
        files = prepare_dataset(model, data or data_folder(), coco, _report, stuff_maps=stuff_maps)
    _print_prepared(files, as_json)


@app.command("prepare")
def prepare_experiment_(
    experiment: Experiment,
    coco: Annotated[Path | None, typer.Option(help="COCO folder that is there already, to link to")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable files")] = False,
) -> None:
    """Get and check what an experiment's rows need: files of its datasets, and initial weights.

    Exit status 1 if something is missing or not as it should be. Run it again after an interruption and it
    continues.
    """
    from benchmark.preparation import prepare_experiment
    from benchmark.recipes import load_experiment

    _print_prepared(prepare_experiment(load_experiment(experiment), coco, _report), as_json)


def _print_prepared(files: "Sequence[Prepared]", as_json: bool) -> None:
    """Print how every file stands; exit status 1 where one is missing."""
    if as_json:
        _print_json([{"path": str(file.path), "ready": file.ready, "text": file.text} for file in files])
    else:
        for file in files:
            typer.echo(f"{'ready  ' if file.ready else 'missing'}  {file.path}\n{indent(file.text, ' ' * 9)}")
    missing = sum(not file.ready for file in files)
    _report(f"{len(files) - missing} of {len(files)} ready")
    if missing:
        raise typer.Exit(1)


@app.command()
def stats(annotations: Annotations, output: Output) -> None:
    """Count images and instances of every category and compare with the file's own fields."""
    from benchmark.statistics import class_statistics_with_differences

    statistics, differences = class_statistics_with_differences(annotations)
    statistics.write(output)
    typer.echo(statistics.summary(), err=True)
    for difference in differences:
        typer.echo(f"warning: {difference}", err=True)


class _MakeByDefault(TyperGroup):
    """``longtail intermediates ANN ...`` is ``longtail intermediates make ANN ...``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in (*self.commands, "--help"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


intermediates_app = typer.Typer(
    cls=_MakeByDefault,
    no_args_is_help=True,
    help="Make what BAGS, re-weighting, RFS and SimCal read: longtail intermediates ANN -o DIR.",
)
app.add_typer(intermediates_app, name="intermediates")


@intermediates_app.command("make")
def make_intermediates(
    annotations: Annotations,
    output: Output,
    edges: Annotated[
        str, typer.Option(help="instance counts between BAGS' groups, with commas")
    ] = "10,100,1000",
    upstream: Annotated[bool, typer.Option(help="also the files of the BAGS and SimCal releases")] = False,
) -> None:
    """Make groups, class weights, repeat factors and the images of every category (the default)."""
    from benchmark.statistics import intermediates, write_intermediates

    parts = edges.replace(",", " ").split()
    if not all(part.isdecimal() and part.isascii() and len(part) < 17 for part in parts):
        raise BenchmarkError("group edges are not counts", found=edges, expected="e.g. 10,100,1000")
    content, differences = intermediates(annotations)
    write_intermediates(content, output, [int(part) for part in parts], upstream)
    typer.echo(content.statistics.summary(), err=True)
    for difference in differences:
        typer.echo(f"warning: {difference}", err=True)


@intermediates_app.command("inspect")
def inspect_intermediates_(
    path: Annotated[Path, typer.Argument(help="folder or file of intermediate files", metavar="DIR|FILE")],
    ann: Annotated[Path | None, typer.Option(help="annotation file, for names and checks")] = None,
) -> None:
    """Print groups, their sizes and their categories; check every file. Nothing in them is run."""
    from benchmark.statistics import inspect_intermediates

    typer.echo(inspect_intermediates(path, ann))


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="what to list")],
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable list")] = False,
) -> None:
    """List methods, detectors, datasets or experiments; methods by what they change of the baseline."""
    from benchmark.recipes import describe
    from benchmark.recipes.touches import TOUCHED

    entries = describe(kind.value)
    if as_json:
        _print_json(entries)
        return
    width = max((len(entry["name"]) for entry in entries), default=0)
    groups = [*TOUCHED, None] if kind is Kind.methods else [None]  # what is broken is in no group
    for group in groups:
        inside = [entry for entry in entries if entry.get("touches") == group]
        if group is not None and inside:
            typer.echo(f"{group}:")
        for entry in inside:
            typer.echo(f"{'  ' if group else ''}{entry['name']:<{width}}  {entry['title']}")
    if kind is Kind.experiments:
        from benchmark.reporting.answers import find_answers

        typer.echo(f"\n{find_answers().text()}")


@app.command()
def show(
    recipe: Recipe,
    as_json: Annotated[
        bool, typer.Option("--json", help="the resolved recipe as JSON, without sources")
    ] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="its steps, their keys, and what each is made of")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(help="another recipe: print only what differs; paper: the one of the published number"),
    ] = None,
) -> None:
    """Print the resolved recipe and where each value came from, and its deviations from the published row."""
    from benchmark.recipes import explain, explain_against, find_run

    if against is not None:
        from benchmark.reporting.answers import answering_recipe

        other = answering_recipe(recipe) if against == "paper" else against
        typer.echo(explain_against(recipe, other))
    elif keys:
        from benchmark.steps.explanation import explain_keys

        typer.echo(explain_keys(find_run(recipe)))
    elif as_json:
        _print_json(find_run(recipe).model_dump(mode="json", by_alias=True))
    else:
        typer.echo(explain(recipe))


@app.command()
def why(recipe: Recipe) -> None:
    """Say of every step that has no result what differs from the results at hand that come nearest to it."""
    from benchmark.recipes import find_run
    from benchmark.steps.explanation import explain_missing

    typer.echo(explain_missing(find_run(recipe)))


@app.command()
def gc(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            help="further experiments whose results stay: names or YAML files", metavar="EXPERIMENT..."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="only say what would be removed")] = False,
) -> None:
    """Remove results that no experiment refers to.

    Those of workflows/experiments, of every experiment that has a table in results/experiments, and those
    given.
    """
    from benchmark.steps.collection import collect_garbage

    typer.echo(collect_garbage(experiments or [], remove=not dry_run))


@app.command()
def plan(
    experiment: Experiment,
    rates: Annotated[
        list[str] | None,
        typer.Argument(help="images/s of one GPU in full training, by detector", metavar="[PRESET=N]..."),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="GPU that trainings must fit, a name in workflows/zoo.yaml [default: its first]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable plan")] = False,
) -> None:
    """Print an experiment's jobs, shared stages, GPU-hours, disk and missing files, before anything runs.

    Also checks the files that its rows read, unless that was done before, and its initial weights, and warns
    of settings that have no effect on the training data. Exit status 2 if something in the files or weights
    would stop a row or falsify its numbers.
    """
    from benchmark.planning import plan_experiment
    from benchmark.preparation import validate_experiment, warnings_of_data
    from benchmark.recipes import load_experiment

    loaded = load_experiment(experiment)
    planned = plan_experiment(loaded, _rates(rates or []), gpu)
    problems = validate_experiment(loaded, _report)
    warnings = {} if problems else warnings_of_data(loaded)
    if as_json:
        _print_json({**planned.as_dict(), "problems": problems, "warnings": warnings})
    else:
        told = [f"problem: {text}" for text in problems]
        told += [f"warning for {', '.join(rows)}: {text}" for text, rows in warnings.items()]
        typer.echo("\n\n".join([planned.text(), *told]))
    if problems:
        raise typer.Exit(2)


def _rates(items: list[str]) -> dict[str, float]:
    found = {}
    for item in items:
        name, _, number = item.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = 0.0
        if not 0 < found[name] < float("inf"):
            raise BenchmarkError("not a rate", found=item, expected="e.g. torchvision/mask_rcnn_r50_fpn=12.5")
    return found


@app.command("init")
def init_(
    folder: Annotated[Path, typer.Argument(help="a new or an empty folder", metavar="FOLDER")],
) -> None:
    """Write a folder to work in: the workflow, an experiment to start from, a place for methods."""
    from benchmark.recipes.scaffold import new_project

    for path in new_project(folder):
        typer.echo(path)
    _report(f"next: cd {folder}; longtail plan first")


@app.command("new-method")
def new_method_(
    name: Annotated[str, typer.Argument(help="name of the method, e.g. my_loss", metavar="NAME")],
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of methods")] = Path("methods"),
) -> None:
    """Write a working method to start from: manifest, classifier, README and test."""
    from benchmark.recipes.scaffold import new_method

    for path in new_method(name, output):
        typer.echo(path)


@app.command("make")
def make_(
    recipe: Recipe,
    step: Annotated[
        str | None,
        typer.Argument(
            help="name of a step, or KIND/KEY [default: every step that is missing, in order]; with an "
            "experiment for a recipe, shared_pass/KEY makes together what can share a pass over the images"
        ),
    ] = None,
    devices: Devices = 0,
    workers: Annotated[int, typer.Option(min=0, help="data loading processes per process")] = 0,
    images_at_once: ImagesAtOnce = None,
    attempt: Attempt = 1,
) -> None:
    """Make steps of a recipe: data, training stages, prediction, evaluation. What is made already stays.

    Run it again after an interruption and it continues.
    """
    from benchmark.recipes import find_run, load_experiment
    from benchmark.steps.making import Means, make_all, make_pass, make_step
    from benchmark.steps.sharing import PASS

    means = Means(devices, workers, images_at_once)
    if step is not None and step.startswith(f"{PASS.name}/"):
        make_pass(load_experiment(recipe), step, means, attempt)
    elif step is None:
        make_all(find_run(recipe), recipe, means)
    else:
        make_step(find_run(recipe), step, means, attempt)


@app.command("import-checkpoint")
def import_checkpoint_(
    file: Annotated[Path, typer.Argument(help="released weights, saved by torch.save", metavar="FILE")],
    recipe: Recipe,
    source: Annotated[Source, typer.Option("--from", help="whose names and orders the file follows")],
    output: Output,
    heads: Heads = None,
) -> None:
    """Write weights from elsewhere as the finished checkpoint of a recipe; report what changed in them."""
    from benchmark.detectors.importing import import_checkpoint
    from benchmark.recipes import find_run
    from benchmark.steps import made_dataset

    run = find_run(recipe)
    statistics = made_dataset(run.dataset).statistics
    typer.echo(import_checkpoint(run, statistics, file, source.value, output, heads or ()).text())


@app.command()
def train(
    recipe: Recipe,
    stage: Annotated[str, typer.Argument(help="name of the stage")],
    init: Annotated[Path, typer.Option(help="weights from elsewhere, as import-checkpoint writes them")],
    output: Output,
    devices: Annotated[int, typer.Option(min=0, max=1, help="1: a GPU if there is one; 0: the CPU")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="data loading processes")] = 0,
    images_at_once: ImagesAtOnce = None,
) -> None:
    """Train one stage of a recipe on any checkpoint; run it again after an interruption and it continues.

    The folder of the output is for this training alone.
    """
    from benchmark.devices import lease_devices
    from benchmark.recipes import find_run
    from benchmark.steps import made_files
    from benchmark.training import StageJob, run_stage

    run = find_run(recipe)
    lease_devices(devices)
    files = made_files(run)
    job = StageJob(run, stage, files, output, init=init)
    run_stage(job, devices=devices, workers=workers, images_at_once=images_at_once)


@app.command()
def predict(
    recipe: Recipe,
    checkpoint: Annotated[Path, typer.Option("-c", "--checkpoint", help="weights from elsewhere")],
    output: Output,
    devices: Annotated[int, typer.Option(min=0, max=1, help="1: a GPU if there is one; 0: the CPU")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="data loading processes")] = 0,
) -> None:
    """Detect objects in the validation images of a recipe's dataset with any checkpoint; write Parquet."""
    from benchmark.devices import lease_devices
    from benchmark.inference.predict import predict_dataset
    from benchmark.recipes import find_run
    from benchmark.steps import made_files

    run = find_run(recipe)
    lease_devices(devices)
    predict_dataset(run, made_files(run), checkpoint, output, devices=devices, workers=workers)


@app.command()
def results(
    detections: Annotated[Path, typer.Argument(help="detections.parquet")],
    output: Output,
) -> None:
    """Convert detections to the LVIS results format (JSON)."""
    from benchmark.inference.detections import write_lvis_results

    write_lvis_results(detections, output)


def _caps(words: list[str]) -> dict[str, int]:
    """Numbers of detections by protocol, from ``300``, ``lvis=300`` or ``coco=100``."""
    caps = {}
    for word in words:
        protocol, _, number = word.rpartition("=")
        sound = number.isdecimal() and len(number) < 10 and int(number) > 0
        if protocol not in ("", "lvis", "coco") or not sound:
            raise BenchmarkError(
                "--max-detections is no number of detections",
                found=word,
                expected="N from 1, or lvis=N, of an image; coco=N of a category in an image",
            )
        caps[protocol or "lvis"] = int(number)
    return caps


@app.command()
def evaluate(
    gt: Annotated[Path, typer.Option(help="ground truth: LVIS- or COCO-format JSON")],
    dt: Annotated[Path, typer.Option(help="detections: Parquet, or LVIS results JSON")],
    iou: Annotated[
        list[Iou] | None, typer.Option(help="bbox or segm; repeat for both [default: what dt has]")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="metrics.json")] = None,
    per_class: Annotated[Path | None, typer.Option(help="per-category AP as CSV")] = None,
    max_detections: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PROTOCOL=]N",
            help="highest scores kept: N or lvis=N of an image where the ground truth is LVIS, coco=N of a "
            "category in an image where it is COCO [default: lvis=300, coco=100]",
        ),
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="class statistics of the training split, for AP by training counts")
    ] = None,
    curves: Annotated[Path | None, typer.Option(help="precision-recall arrays as .npz")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="score and precision in bins as CSV; adds the calibration error")
    ] = None,
    errors: Annotated[bool, typer.Option("--errors", help="add TIDE's error types")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what -o writes")] = False,
) -> None:
    """Compute AP and AR as LVIS or COCO defines them, by training counts and category, and AP-fixed."""
    from benchmark.evaluation import evaluate_detections

    iou_types = [item.value for item in iou] if iou else None
    caps = _caps(max_detections or [])
    evaluation = evaluate_detections(gt, dt, iou_types, caps, statistics, errors, calibration is not None)
    evaluation.write(output, per_class, curves, calibration)
    if as_json:
        _print_json(evaluation.metrics)
    else:
        typer.echo(evaluation.text())


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="balms, bags, simcal or gol", metavar="PAPER")],
    row: Annotated[
        str, typer.Argument(help="row of its table in results/reported/reported.csv", metavar="ROW")
    ],
    weights: Annotated[Path, typer.Option(help="released weights, saved by torch.save")],
    heads: Heads = None,
    recipe: Annotated[
        str | None, typer.Option(help="EXPERIMENT:ROW, where several answer to the published row")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="data loading processes")] = 0,
) -> None:
    """Evaluate released weights and compare with the published numbers.

    Exit status 1 if a number is outside its tolerance. Files go to results/reproduced/PAPER/ROW.
    """
    from benchmark.reproduction import reproduce as reproduce_row

    found = reproduce_row(paper, row, weights, heads or (), recipe, workers)
    typer.echo(found.imported, err=True)
    typer.echo(found.text())
    if not found.holds:
        raise typer.Exit(1)


@app.command()
def table(
    experiment: Experiment,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="folder of tables and plots")] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="add bootstrap intervals over images, from the detections")
    ] = False,
) -> None:
    """Collect an experiment's results into tables and plots, finished or not, and print the table."""
    from benchmark.recipes import load_experiment
    from benchmark.reporting import write_report

    typer.echo(write_report(load_experiment(experiment), output, intervals))


@app.command()
def status(
    experiment: Experiment,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable status")] = False,
) -> None:
    """Show how far every run of an experiment is, why the others failed, and what to do about it."""
    from benchmark.recipes import load_experiment
    from benchmark.reporting.status import collect_status, print_status

    found = collect_status(load_experiment(experiment))
    if as_json:
        _print_json(found.as_dict())
    else:
        print_status(found)


@app.command()
def compare(
    first: Annotated[
        str, typer.Argument(help="finished row (all its seeds) or run, e.g. smoke:softmax", metavar="ROW")
    ],
    second: Annotated[str, typer.Argument(help="another one on the same data", metavar="ROW")],
    as_json: Annotated[bool, typer.Option("--json", help="every metric and category as JSON")] = False,
) -> None:
    """Print how the second row differs from the first: paired intervals, and the categories that moved."""
    from benchmark.recipes import find_runs
    from benchmark.reporting.comparison import compare as compare_rows

    comparison = compare_rows(find_runs(first), find_runs(second))
    if as_json:
        _print_json(comparison.as_dict())
    else:
        typer.echo(comparison.text())


@app.command()
def reference(
    experiment: Experiment,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="CSV file [default: results/reference/NAME.csv]")
    ] = None,
) -> None:
    """Write the numbers of an experiment with their noise, as they come with the project for `verify`."""
    from benchmark.recipes import load_experiment
    from benchmark.reporting.reference import write_reference

    typer.echo(write_reference(load_experiment(experiment), output), err=True)


@app.command()
def verify(
    experiment: Experiment,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable verdicts")] = False,
    only_summary: Annotated[bool, typer.Option("--summary", help="the verdicts' totals alone")] = False,
) -> None:
    """Compare with published numbers, and with those that come with the project for this experiment.

    Exit status 1 where a number leaves its tolerance or none is there.
    """
    from dataclasses import asdict

    from benchmark.recipes import load_experiment
    from benchmark.reporting.reference import summary, verify_repeat
    from benchmark.reporting.verification import verify as verify_experiment

    loaded = load_experiment(experiment)
    verdicts, repeats = verify_experiment(loaded), verify_repeat(loaded)
    if as_json:
        _print_json([*map(asdict, verdicts), *map(asdict, repeats)])
    elif not only_summary:
        for text in (*map(str, verdicts), *map(str, repeats)):
            typer.echo(text)
    within = sum(verdict.within for verdict in verdicts)
    totals = [f"{within} of {len(verdicts)} numbers within their tolerance"] if verdicts else []
    totals += [summary(repeats)] if repeats else []
    for line in totals:
        typer.echo(line, err=not only_summary)
    if not totals:
        message = "nothing to verify: no finished row has a published number, or one in results/reference"
        typer.echo(message, err=True)
    if not totals or within < len(verdicts) or not all(item.within for item in repeats):
        raise typer.Exit(1)


@app.command()
def export(
    cell: Annotated[str, typer.Argument(help="recipe of a finished run, e.g. smoke:bags", metavar="CELL")],
    output: Annotated[Path, typer.Option("-o", "--output", help="a new folder, or a file ending in .zip")],
) -> None:
    """Write everything needed to reproduce one row: recipes, commands, records, code, numbers, hashes."""
    from benchmark.recipes import find_run
    from benchmark.reporting.export import export as export_run

    names = export_run(find_run(cell), output)
    typer.echo(f"{output}: {len(names)} files", err=True)


@app.command()
def cite(experiment: Experiment) -> None:
    """Print BibTeX of the papers of an experiment's methods and datasets."""
    from benchmark.recipes import load_experiment
    from benchmark.reporting.citations import citations

    for citation in citations(load_experiment(experiment)):
        typer.echo(f"% {', '.join(citation.cited_for)}\n{citation.bibtex}\n")


def _stop(number: int, _: FrameType | None) -> NoReturn:
    """A signal ends a command like an exception, so that nothing half written stays."""
    raise SystemExit(3)


def main() -> None:
    """Entry point: turns the errors of bad input into one message and exit status 2."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        with data_warnings(lambda text: typer.echo(f"warning: {text}", err=True)):
            app()
    except BenchmarkError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        typer.echo(f"error: {error.filename or 'output'}: {error.strerror or error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
