"""The command ``longtail``: one thin command per step. Results go to stdout, messages to stderr.

Exit status: 0 done, 1 a check or verdict did not hold, 2 bad input or usage, 3 interrupted and resumable.
"""

import json
import signal
import sys
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from benchmark.errors import BenchmarkError

app = typer.Typer(
    name="longtail",
    help="Long-tailed instance segmentation, from annotations to the paper's table.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


class Kind(StrEnum):
    """What ``longtail list`` can list."""

    methods = "methods"
    detectors = "detectors"
    datasets = "datasets"
    experiments = "experiments"


class Iou(StrEnum):
    """What overlaps are computed on."""

    bbox = "bbox"
    segm = "segm"


Annotations = Annotated[Path, typer.Argument(help="LVIS- or COCO-format JSON file", metavar="ANN")]
Recipe = Annotated[
    str, typer.Argument(help="EXPERIMENT:ROW or EXPERIMENT:ROW:SEED, e.g. smoke:bags", metavar="RECIPE")
]
Devices = Annotated[int, typer.Option(min=0, help="GPUs, one process for each; 0: the CPU, GPUs left alone")]
Output = Annotated[Path, typer.Option("-o", "--output", help="where the result goes")]


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@app.command()
def check(
    annotations: Annotations,
    images: Annotated[Path | None, typer.Option(help="image folder; also look for every file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable problems")] = False,
) -> None:
    """Report every problem of an annotation file at once (exit status 2 if there is one)."""
    from benchmark.annotations import check_annotations

    problems = check_annotations(annotations, images)
    if as_json:
        _print_json([problem.as_dict() for problem in problems])
    else:
        for problem in problems:
            typer.echo(str(problem))
    typer.echo(f"{annotations}: {len(problems)} problem{'s' * (len(problems) != 1)}", err=True)
    if problems:
        raise typer.Exit(2)


@app.command()
def subset(
    annotations: Annotations,
    images: Annotated[int, typer.Option(min=1, help="number of images to keep")],
    output: Output,
    seed: Annotated[int, typer.Option(help="seed of the draw")] = 0,
) -> None:
    """Draw a subset with at least one image of every category that has one; counts are recomputed."""
    from benchmark.annotations import subset_annotations

    typer.echo(subset_annotations(annotations, output, images, seed), err=True)


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


@app.command()
def stats(annotations: Annotations, output: Output) -> None:
    """Count images and instances of every category and compare with the file's own fields."""
    from benchmark.statistics import class_statistics, differences_from_file

    statistics = class_statistics(annotations)
    statistics.write(output)
    typer.echo(statistics.summary(), err=True)
    for difference in differences_from_file(annotations, statistics):
        typer.echo(f"warning: {difference}", err=True)


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="what to list")],
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable list")] = False,
) -> None:
    """List methods, detectors, datasets or experiments."""
    from benchmark.recipes import describe

    entries = describe(kind.value)
    if as_json:
        _print_json(entries)
        return
    width = max((len(entry["name"]) for entry in entries), default=0)
    for entry in entries:
        typer.echo(f"{entry['name']:<{width}}  {entry['title']}")


@app.command()
def show(
    recipe: Recipe,
    as_json: Annotated[
        bool, typer.Option("--json", help="the resolved recipe as JSON, without sources")
    ] = False,
) -> None:
    """Print the resolved recipe and where each value came from."""
    from benchmark.recipes import explain, find_run

    if as_json:
        _print_json(find_run(recipe).model_dump(mode="json", by_alias=True))
    else:
        typer.echo(explain(recipe))


@app.command("new-method")
def new_method_(
    name: Annotated[str, typer.Argument(help="name of the method, e.g. my_loss", metavar="NAME")],
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of methods")] = Path("methods"),
) -> None:
    """Write a working method to start from: manifest, classifier, README and test."""
    from benchmark.recipes.scaffold import new_method

    for path in new_method(name, output):
        typer.echo(path)


@app.command()
def train(
    recipe: Recipe,
    stage: Annotated[str, typer.Argument(help="name of the stage")],
    output: Output,
    init: Annotated[Path | None, typer.Option(help="checkpoint to start from")] = None,
    devices: Devices = 1,
    workers: Annotated[int, typer.Option(min=0, help="data loading processes per process")] = 0,
    work: Annotated[Path, typer.Option(help="folder of checkpoints for resuming")] = Path("results/work"),
) -> None:
    """Run one stage of a recipe; run it again after an interruption and it continues."""
    from benchmark.processes import launched
    from benchmark.recipes import find_run

    run = find_run(recipe)
    if launched(devices, output):
        return
    from benchmark.training import run_stage

    run_stage(run, stage, output, init=init, devices=devices, workers=workers, work=work)


@app.command()
def predict(
    recipe: Recipe,
    checkpoint: Annotated[Path, typer.Option("-c", "--checkpoint", help="trained weights")],
    output: Output,
    devices: Devices = 1,
    workers: Annotated[int, typer.Option(min=0, help="data loading processes per process")] = 0,
) -> None:
    """Detect objects in the validation images of a recipe's dataset; write them as Parquet."""
    from benchmark.processes import launched
    from benchmark.recipes import find_run

    run = find_run(recipe)
    if launched(devices, output):
        return
    from benchmark.inference.predict import predict_dataset

    predict_dataset(run, checkpoint, output, devices=devices, workers=workers)


@app.command()
def results(
    detections: Annotated[Path, typer.Argument(help="detections.parquet")],
    output: Output,
) -> None:
    """Convert detections to the LVIS results format (JSON)."""
    from benchmark.inference.detections import write_lvis_results

    write_lvis_results(detections, output)


@app.command()
def evaluate(
    gt: Annotated[Path, typer.Option(help="ground truth: LVIS- or COCO-format JSON")],
    dt: Annotated[Path, typer.Option(help="detections: Parquet, or LVIS results JSON")],
    iou: Annotated[
        list[Iou] | None, typer.Option(help="bbox or segm; repeat for both [default: what dt has]")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="metrics.json")] = None,
    per_class: Annotated[Path | None, typer.Option(help="per-category AP as CSV")] = None,
    max_detections: Annotated[int, typer.Option(min=1, help="highest scores kept in an image")] = 300,
) -> None:
    """Compute the 13 LVIS numbers and per-category AP."""
    from benchmark.evaluation import evaluate_detections
    from benchmark.records import record_step

    iou_types = [item.value for item in iou] if iou else None
    recipe = {"iou_types": iou_types, "max_detections": max_detections}
    inputs = {"annotations": gt, "detections": dt}
    with record_step(output, "evaluate", recipe, inputs) if output else nullcontext():
        evaluation = evaluate_detections(gt, dt, iou_types, max_detections)
        evaluation.write(output, per_class)
    typer.echo(evaluation.text())


@app.command()
def table(
    experiment: Annotated[str, typer.Argument(help="experiment name or YAML file")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="folder of tables and plots")] = None,
) -> None:
    """Collect an experiment's results into tables and plots, finished or not, and print the table."""
    from benchmark.recipes import load_experiment
    from benchmark.reporting import write_report

    typer.echo(write_report(load_experiment(experiment), output))


def _stop(number: int, _: FrameType | None) -> NoReturn:
    """A signal ends a command like an exception, so that nothing half written stays."""
    raise SystemExit(3)


def main() -> None:
    """Entry point: turns the errors of bad input into one message and exit status 2."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except BenchmarkError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        typer.echo(f"error: {error.filename or 'output'}: {error.strerror or error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
