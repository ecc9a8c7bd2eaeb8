"""The command ``longtail``: one thin command per step. Results go to stdout, messages to stderr.

Exit status: 0 done, 1 a check or a comparison failed, 2 bad input or usage, 3 interrupted and resumable.
"""

import json
import logging
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
from benchmark.messages import show_messages
from benchmark.notices import data_warnings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.datasets import Prepared

_LOGGER = logging.getLogger("benchmark.cli")  # not __main__, whose messages nobody would show


class _Commands(TyperGroup):
    """Takes ``-v`` and ``-q`` in front of the command and behind it."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        own = [word for word in args if word in ("-v", "--verbose", "-q", "--quiet")]
        return super().parse_args(ctx, [*own, *(word for word in args if word not in own)])


app = typer.Typer(
    name="longtail",
    cls=_Commands,
    help="Long-tailed instance segmentation, from annotations to the paper's table.",
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(help="Prepare datasets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


class Kind(StrEnum):
    """What ``longtail list`` can list."""

    methods = "methods"
    detectors = "detectors"
    datasets = "datasets"
    experiments = "experiments"


class Source(StrEnum):
    """The releases and frameworks whose weight files can be imported."""

    balms = "balms"
    bags = "bags"
    simcal = "simcal"
    gol = "gol"
    mmdet = "mmdet"
    detectron2 = "detectron2"
    torchvision = "torchvision"


class Iou(StrEnum):
    """Whether overlaps are those of boxes or of masks."""

    bbox = "bbox"
    segm = "segm"


_FIRST = """\
Make a results table
  longtail plan smoke            print jobs, hours, disk space and missing files
  snakemake --workflow-profile workflows/profiles/local --config experiment=smoke
  longtail status smoke          show the progress; the table is results/experiments/smoke/table.md

Compare your own method with the others
  longtail new-method my_loss    write a working method; change it, then name it in an experiment

Evaluate detections
  longtail evaluate --gt val.json --dt results.json
"""


def _experiment_names(incomplete: str) -> list[str]:
    """Completions of an experiment's name, also in a recipe before the colon."""
    from benchmark.recipes.catalog import yaml_files

    return [name for name in yaml_files("experiments") if name.startswith(incomplete)]


def _dataset_names(incomplete: str) -> list[str]:
    """Completions of a dataset's name."""
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
    typer.Option(
        min=1,
        help="how often the workflow has tried this step; failures that would repeat are not tried again",
    ),
]
Devices = Annotated[
    int, typer.Option(min=0, help="number of GPUs, one process for each; 0: use only the CPU")
]
ImagesAtOnce = Annotated[
    int | None,
    typer.Option(min=1, help="at most so many images in one forward pass, to save memory; same result"),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="path of the result")]
Heads = Annotated[
    list[Path] | None,
    typer.Option(
        "--head", help="SimCal's calibrated head, a separate file; for a cascade one for each box head"
    ),
]


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@app.callback()
def first(
    context: typer.Context,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="also details, and messages of other packages")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="warnings and errors alone, no bars")] = False,
) -> None:
    """Long-tailed instance segmentation, from annotations to the paper's table."""
    show_messages(verbose - quiet)
    if context.invoked_subcommand is None:
        typer.echo(_FIRST)
        typer.echo(context.get_help())


@app.command()
def check(
    annotations: Annotations,
    val: Annotated[
        Path | None, typer.Option(help="validation file; also check that it matches ANN, the training file")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="image folder; also open every image file")] = None,
    val_images: Annotated[
        Path | None, typer.Option(help="image folder of the validation file (default: --images)")
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="with --val: every annotation needs a mask, for mask models")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes that open image files (default: one a core)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable problems")] = False,
) -> None:
    """Report all problems of annotation and image files that other commands would refuse.

    Exit status 2 if there are errors, 1 if there are only warnings, which training and evaluation tolerate.
    """
    from benchmark.annotations import check_annotations, check_dataset, counted, problems_text
    from benchmark.annotations.image_files import usable_cores
    from benchmark.progress import shown_progress

    if val is None and (val_images is not None or masks):
        raise BenchmarkError(
            "--val-images and --masks need two annotation files", remedy="give the second one with --val"
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
    _LOGGER.info(f"{annotations}{f' and {val}' if val else ''}: {words}")
    if problems:
        raise typer.Exit(2 if totals["error"] else 1)


@app.command()
def subset(
    annotations: Annotations,
    images: Annotated[int, typer.Option(min=1, help="number of images to keep")],
    output: Output,
    val: Annotated[
        Path | None, typer.Option(help="validation file to subset together with ANN, the training file")
    ] = None,
    val_images: Annotated[int | None, typer.Option(min=1, help="number of validation images to keep")] = None,
    val_output: Annotated[Path | None, typer.Option(help="path of the validation subset")] = None,
    categories: Annotated[
        int | None,
        typer.Option(min=1, help="number of categories to keep, spread evenly over the frequencies"),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="category to keep, by name or id; repeat for more (default: all)")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="category to leave out, by name or id; repeat for more")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the draw")] = 0,
) -> None:
    """Draw a subset that keeps at least one image of every category; counts are recomputed.

    With --val, the validation subset has the same categories, and the frequency letters of the training
    subset.
    """
    from benchmark.annotations import Choice, subset_annotations, subset_pair

    choice = Choice(categories, tuple(keep or ()), tuple(drop or ()))
    if val is None and val_images is None and val_output is None:
        _LOGGER.info(subset_annotations(annotations, output, images, seed, choice))
        return
    if val is None or val_images is None or val_output is None:
        options = {"--val": val, "--val-images": val_images, "--val-output": val_output}
        raise BenchmarkError(
            "a validation file needs three options",
            found=", ".join(name for name, value in options.items() if value is not None),
            expected=", ".join(options),
        )
    lines = subset_pair(
        annotations, val, output, val_output, images=images, val_images=val_images, seed=seed, choice=choice
    )
    _LOGGER.info(lines)


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
            f"dataset '{model.name}' is not synthetic",
            remedy="longtail list datasets shows the synthetic ones",
        )
    _LOGGER.info(synthesize_dataset(model.synthetic, output))


@data_app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(help="dataset name or YAML file", autocompletion=_dataset_names)],
    data: Annotated[
        Path | None, typer.Option(help="folder of the data sets (default: $LONGTAIL_DATA, or data)")
    ] = None,
    coco: Annotated[Path | None, typer.Option(help="COCO folder that is there already, to link to")] = None,
    stuff_maps: Annotated[
        bool,
        typer.Option(
            "--stuff-maps", help="also the stuff maps that only detectors with a semantic branch (HTC) need"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable files")] = False,
) -> None:
    """Check, link, download or rebuild the files of a dataset; list the files that you must get yourself.

    Exit status 1 if a file is missing. Run the command again after an interruption to continue.
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
        files = prepare_dataset(model, data or data_folder(), coco, _LOGGER.info, stuff_maps=stuff_maps)
    _print_prepared(files, as_json)


@app.command("prepare")
def prepare_experiment_(
    experiment: Experiment,
    coco: Annotated[Path | None, typer.Option(help="COCO folder that is there already, to link to")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable files")] = False,
) -> None:
    """Get and check the dataset files and initial weights that an experiment needs.

    Exit status 1 if a file is missing or invalid. Run the command again after an interruption to continue.
    """
    from benchmark.preparation import prepare_experiment
    from benchmark.recipes import load_experiment

    _print_prepared(prepare_experiment(load_experiment(experiment), coco, _LOGGER.info), as_json)


def _print_prepared(files: "Sequence[Prepared]", as_json: bool) -> None:
    """Print the state of every file; exit status 1 if one is missing."""
    if as_json:
        _print_json([{"path": str(file.path), "ready": file.ready, "text": file.text} for file in files])
    else:
        for file in files:
            typer.echo(f"{'ready  ' if file.ready else 'missing'}  {file.path}\n{indent(file.text, ' ' * 9)}")
    missing = sum(not file.ready for file in files)
    _LOGGER.info(
        f"{len(files) - missing} of {len(files)} ready"
        if files
        else "nothing to fetch; all files are in order"
    )
    if missing:
        raise typer.Exit(1)


@app.command()
def stats(
    annotations: Annotations,
    output: Output,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable totals and differences")] = False,
) -> None:
    """Count images and instances of every category, and compare them with the counts stored in the file."""
    from benchmark.statistics import class_statistics_with_differences

    statistics, differences = class_statistics_with_differences(annotations)
    statistics.write(output)
    if as_json:
        _print_json(statistics.totals() | {"differences": differences})
        return
    _LOGGER.info(statistics.summary())
    for difference in differences:
        _LOGGER.warning(difference)


class _MakeByDefault(TyperGroup):
    """``longtail intermediates ANN ...`` is ``longtail intermediates make ANN ...``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in (*self.commands, "--help"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


intermediates_app = typer.Typer(
    cls=_MakeByDefault,
    no_args_is_help=True,
    help="Make the files that BAGS, re-weighting, RFS and SimCal read: longtail intermediates ANN -o DIR.",
)
app.add_typer(intermediates_app, name="intermediates")


@intermediates_app.command("make")
def make_intermediates(
    annotations: Annotations,
    output: Output,
    edges: Annotated[
        str, typer.Option(help="instance counts that separate the groups of BAGS, separated by commas")
    ] = "10,100,1000",
    upstream: Annotated[
        bool, typer.Option(help="also write the files of the BAGS and SimCal releases")
    ] = False,
) -> None:
    """Make groups, class weights, repeat factors and the images of every category (the default)."""
    from benchmark.statistics import intermediates, write_intermediates

    parts = edges.replace(",", " ").split()
    if not all(part.isdecimal() and part.isascii() and len(part) < 17 for part in parts):
        raise BenchmarkError("group edges are not counts", found=edges, expected="e.g. 10,100,1000")
    content, differences = intermediates(annotations)
    write_intermediates(content, output, [int(part) for part in parts], upstream)
    _LOGGER.info(content.statistics.summary())
    for difference in differences:
        _LOGGER.warning(difference)


@intermediates_app.command("inspect")
def inspect_intermediates_(
    path: Annotated[Path, typer.Argument(help="folder or file of intermediate files", metavar="DIR|FILE")],
    ann: Annotated[Path | None, typer.Option(help="annotation file, for names and checks")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable files and groups")] = False,
) -> None:
    """Check every file, and print the groups with their sizes and categories. Never executes the files."""
    from dataclasses import asdict

    from benchmark.statistics import inspect_intermediates

    files = inspect_intermediates(path, ann)
    if as_json:
        _print_json([asdict(file) for file in files])
        return
    for file in files:
        typer.echo(file)


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="what to list")],
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable list")] = False,
) -> None:
    """List methods (grouped by what they change in the baseline), detectors, datasets or experiments."""
    from benchmark.recipes import describe
    from benchmark.recipes.touches import TOUCHED

    entries = describe(kind.value)
    if as_json:
        _print_json(entries)
        return
    width = max((len(entry["name"]) for entry in entries), default=0)
    groups = [*TOUCHED, None] if kind is Kind.methods else [None]  # broken entries have no group
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
        bool, typer.Option("--json", help="as JSON; the resolved recipe without sources")
    ] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="print the steps, their keys and the contents of each key")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            help="print only the differences from another recipe; paper: from that of the published number"
        ),
    ] = None,
) -> None:
    """Print the resolved recipe with the source of each value, and its deviations from the published row."""
    from benchmark.recipes import differences_of, explain, explain_against, find_run

    if against is not None:
        from benchmark.reporting.answers import answering_recipe

        other = answering_recipe(recipe) if against == "paper" else against
        _print_json(differences_of(recipe, other)) if as_json else typer.echo(explain_against(recipe, other))
    elif keys:
        from benchmark.steps.explanation import explain_keys, keys_of

        run = find_run(recipe)
        _print_json(keys_of(run)) if as_json else typer.echo(explain_keys(run))
    elif as_json:
        _print_json(find_run(recipe).model_dump(mode="json", by_alias=True))
    else:
        typer.echo(explain(recipe))


@app.command()
def why(
    recipe: Recipe,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable steps")] = False,
) -> None:
    """For every step without a result, print the differences from the most similar stored results."""
    from dataclasses import asdict

    from benchmark.recipes import find_run
    from benchmark.steps.explanation import explain_steps

    steps = explain_steps(find_run(recipe))
    if as_json:
        _print_json([asdict(step) for step in steps])
    else:
        typer.echo("\n".join(step.text() for step in steps))


@app.command()
def gc(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            help="further experiments whose results are kept: names or YAML files", metavar="EXPERIMENT..."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="only list the results that would be removed")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable folders and bytes")] = False,
) -> None:
    """Remove results that no experiment refers to.

    Keeps the results of the experiments in workflows/experiments, of every experiment with a table in
    results/experiments, and of the given experiments.
    """
    from dataclasses import asdict

    from benchmark.steps.collection import collect_garbage

    found = collect_garbage(experiments or [], remove=not dry_run)
    _print_json(asdict(found)) if as_json else typer.echo(found.text())


@app.command()
def plan(
    experiment: Experiment,
    rates: Annotated[
        list[str] | None,
        typer.Argument(
            help="images per second of one GPU in full training, by detector", metavar="[PRESET=N]..."
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="GPU that trainings must fit, a name in workflows/zoo.yaml (default: the first one)"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable plan")] = False,
) -> None:
    """Print the jobs, shared stages, GPU-hours, disk space and missing files of an experiment; run nothing.

    Also checks the dataset files (unless they were checked before) and the initial weights, and warns of
    settings that have no effect on the training data. Exit status 2 if the files or weights would stop a row
    or make its numbers wrong.
    """
    from benchmark.planning import plan_experiment
    from benchmark.preparation import validate_experiment, warnings_of_data
    from benchmark.recipes import load_experiment

    loaded = load_experiment(experiment)
    planned = plan_experiment(loaded, _rates(rates or []), gpu)
    problems = validate_experiment(loaded, _LOGGER.info)
    warnings = {} if problems else warnings_of_data(loaded)
    if as_json:
        _print_json({**planned.as_dict(), "problems": problems, "warnings": warnings})
    else:
        notes = [f"problem: {text}" for text in problems]
        notes += [f"warning for {', '.join(rows)}: {text}" for text, rows in warnings.items()]
        typer.echo("\n\n".join([planned.text(), *notes]))
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
    """Write a project folder with the workflow, a first experiment and a place for methods."""
    from benchmark.recipes.scaffold import new_project

    for path in new_project(folder):
        typer.echo(path)
    _LOGGER.info(f"next: cd {folder}; longtail plan first")


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
            help="name of a step, or KIND/KEY (default: all missing steps, in order); for an experiment, "
            "shared_pass/KEY makes together the steps that can share a pass over the images"
        ),
    ] = None,
    devices: Devices = 0,
    workers: Annotated[int, typer.Option(min=0, help="data loading processes per process")] = 0,
    images_at_once: ImagesAtOnce = None,
    attempt: Attempt = 1,
) -> None:
    """Make steps of a recipe: data, training stages, prediction, evaluation. Finished steps are kept.

    Run the command again after an interruption to continue.
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
    source: Annotated[Source, typer.Option("--from", help="release or framework that the file is from")],
    output: Output,
    heads: Heads = None,
) -> None:
    """Convert released weights to the finished checkpoint of a recipe; report the changes."""
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
    init: Annotated[
        Path, typer.Option(help="checkpoint to start from, e.g. one that import-checkpoint has written")
    ],
    output: Output,
    devices: Annotated[int, typer.Option(min=0, max=1, help="1: a GPU if there is one; 0: the CPU")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="data loading processes")] = 0,
    images_at_once: ImagesAtOnce = None,
) -> None:
    """Train one stage of a recipe from any checkpoint.

    Run the command again after an interruption to continue. Use the folder of the output for this training
    only.
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
    checkpoint: Annotated[
        Path,
        typer.Option("-c", "--checkpoint", help="checkpoint, e.g. one that import-checkpoint has written"),
    ],
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
                "--max-detections is not a number of detections",
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
        list[Iou] | None,
        typer.Option(help="bbox or segm; repeat for both (default: those that the detections have)"),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="metrics.json")] = None,
    per_class: Annotated[Path | None, typer.Option(help="per-category AP as CSV")] = None,
    max_detections: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PROTOCOL=]N",
            help="detections to keep, highest scores first: N or lvis=N per image for LVIS ground "
            "truth, coco=N per category and image for COCO (default: lvis=300, coco=100)",
        ),
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="class statistics of the training split, for AP by training counts")
    ] = None,
    curves: Annotated[Path | None, typer.Option(help="precision-recall arrays as .npz")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="CSV of score and precision in bins; also computes the calibration error"),
    ] = None,
    errors: Annotated[bool, typer.Option("--errors", help="also compute the error types of TIDE")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the metrics as JSON")] = False,
) -> None:
    """Compute AP and AR as defined by LVIS or COCO, AP by training counts and by category, and AP-fixed."""
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
        str | None, typer.Option(help="EXPERIMENT:ROW, if several rows reproduce the published row")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="data loading processes")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable numbers and verdict")] = False,
) -> None:
    """Evaluate released weights and compare the result with the published numbers.

    Exit status 1 if a number is outside its tolerance. Writes to results/reproduced/PAPER/ROW.
    """
    from benchmark.reproduction import reproduce as reproduce_row

    found = reproduce_row(paper, row, weights, heads or (), recipe, workers)
    _LOGGER.info(found.imported)
    _print_json(found.as_dict()) if as_json else typer.echo(found.text())
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
    """Write tables and plots of an experiment's results so far, and print the table."""
    from benchmark.recipes import load_experiment
    from benchmark.reporting import write_report

    typer.echo(write_report(load_experiment(experiment), output, intervals))


@app.command()
def status(
    experiment: Experiment,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable status")] = False,
) -> None:
    """Show the progress of every run of an experiment; for failed runs also the cause and advice."""
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
    second: Annotated[str, typer.Argument(help="another row or run on the same data", metavar="ROW")],
    as_json: Annotated[bool, typer.Option("--json", help="every metric and category as JSON")] = False,
) -> None:
    """Compare two rows: paired intervals of the differences, and the categories that changed most."""
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
        Path | None, typer.Option("-o", "--output", help="CSV file (default: results/reference/NAME.csv)")
    ] = None,
) -> None:
    """Write the numbers of an experiment with their noise, as reference for `verify`."""
    from benchmark.recipes import load_experiment
    from benchmark.reporting.reference import write_reference

    _LOGGER.info(write_reference(load_experiment(experiment), output))


@app.command()
def verify(
    experiment: Experiment,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable verdicts")] = False,
    only_summary: Annotated[bool, typer.Option("--summary", help="print only the totals")] = False,
) -> None:
    """Compare results with published numbers, and with the project's reference numbers of the experiment.

    Exit status 1 if a number is outside its tolerance or if there is no number to compare.
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
        typer.echo(line) if only_summary else _LOGGER.info(line)
    if not totals:
        message = "nothing to verify: no finished row has a published number, or one in results/reference"
        _LOGGER.warning(message)
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
    _LOGGER.info(f"{output}: {len(names)} files")


@app.command()
def cite(experiment: Experiment) -> None:
    """Print BibTeX of the papers of an experiment's methods and datasets."""
    from benchmark.recipes import load_experiment
    from benchmark.reporting.citations import citations

    for citation in citations(load_experiment(experiment)):
        typer.echo(f"% {', '.join(citation.cited_for)}\n{citation.bibtex}\n")


def _stop(number: int, _: FrameType | None) -> NoReturn:
    """End the command on a signal as on an exception, so that no half-written file remains."""
    raise SystemExit(3)


def main() -> None:
    """Entry point: prints one message for bad input and exits with status 2."""
    signal.signal(signal.SIGTERM, _stop)
    show_messages()
    try:
        with data_warnings(_LOGGER.warning):
            app()
    except BenchmarkError as error:
        _LOGGER.error(error)
        sys.exit(error.exit_code)
    except OSError as error:
        _LOGGER.error("%s: %s", error.filename or "output", error.strerror or error)
        sys.exit(2)


if __name__ == "__main__":
    main()
