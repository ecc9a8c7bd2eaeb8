# The experiment and what the rules ask about its runs.
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.parser import parse
from snakemake.sourcecache import LocalSourceFile

from benchmark.errors import BenchmarkError
from benchmark.recipes import all_runs, load_experiment, paths, with_detector
from benchmark.recipes.loading import read_yaml
from benchmark.recipes.project import project_root

# The `longtail` of the interpreter that runs Snakemake, whether or not its environment is activated.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)

# Memory of a finished operation stays with the process for the next one: glibc would give every large block back
# to the system, and fetching it anew takes a fifth of the time of a prediction on the CPU.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 * 2**30))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(8 * 2**30))

try:
    file = config["experiment"]
    if "detector" in config:
        file = str(with_detector(file, config["detector"]))
    EXPERIMENT = load_experiment(file)
except BenchmarkError as error:
    raise WorkflowError(str(error)) from None

RUNS = {
    str(paths.run_folder(run).relative_to(paths.RESULTS / "runs")): run
    for run in all_runs(EXPERIMENT)
}
RECIPES = EXPERIMENT.recipes()
DATASETS = {run.dataset_name: run.dataset for run in RUNS.values()}
TABLES = str(paths.experiment_folder(EXPERIMENT.name))


wildcard_constraints:
    run=r".+/seed\d+",
    stage=r"[a-z][a-z0-9_]*",
    dataset=r"[a-z][a-z0-9_.]*",


def run_of(wildcards):
    """The run in the folder that a rule's wildcard names."""
    return RUNS[wildcards.run]


def near(path):
    """A path as rules name it: relative where it can be, so that a project that was moved stays up to date."""
    path = Path(path)
    return str(
        path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    )


def annotations(split):
    """Input function: the annotation file of a run's dataset."""
    return lambda wildcards: str(
        paths.annotations_path(run_of(wildcards).dataset, split)
    )


def images(split):
    """Input function: the image folder of a run's dataset."""
    return lambda wildcards: str(paths.images_folder(run_of(wildcards).dataset, split))


def statistics(wildcards):
    """The class statistics of a run's dataset."""
    return str(paths.statistics_path(run_of(wildcards).dataset))


def initial_checkpoint(wildcards):
    """The checkpoint that a stage starts from; nothing for initial weights."""
    path = paths.initial_checkpoint_path(run_of(wildcards), wildcards.stage)
    return str(path) if path else []


def final_checkpoint(wildcards):
    """The checkpoint that is evaluated."""
    return str(paths.final_checkpoint_path(run_of(wildcards)))


def method_code(wildcards):
    """The code of a run's method: editing it makes the results of this method stale, and of no other."""
    files = Path(run_of(wildcards).plugin_path).rglob("*.py")
    return sorted(near(path) for path in files if not path.name.startswith("test_"))


def recipe_of(wildcards):
    """The recipe of a run for the command line."""
    return near(RECIPES[str(paths.run_folder(run_of(wildcards)))])


def small(wildcards):
    """Whether a run's detector is meant for CPU cores: one with a narrow trunk."""
    return run_of(wildcards).detector.width < 1


def cores(wildcards):
    """Threads of a training or prediction."""
    return 1 if small(wildcards) else 8


def gpus(wildcards):
    """GPUs of a training or prediction."""
    return 0 if small(wildcards) else 1


def memory(wildcards, attempt):
    """MB of main memory, more with every attempt."""
    return (2000 if small(wildcards) else 24000) * attempt


def minutes(of_small, of_full):
    """Resource function: the time limit, longer with every attempt."""
    return (
        lambda wildcards, attempt: (of_small if small(wildcards) else of_full) * attempt
    )


def finished_rows():
    """Metrics of every run that is a row of the table and can run here."""
    rows = [row for row in EXPERIMENT.rows if row.skipped is None]
    return sorted(
        {f"{paths.run_folder(run)}/metrics.json" for row in rows for run in row.runs}
    )


def finished_norms():
    """Weight norms of the same runs. Results that were copied here without their checkpoint go without."""
    folders = [Path(path).parent for path in finished_rows()]
    there = {
        folder: RUNS[str(folder.relative_to("results/runs"))] for folder in folders
    }
    return [
        f"{folder}/weight_norms.csv"
        for folder, run in there.items()
        if paths.final_checkpoint_path(run).exists()
        or not (folder / "metrics.json").exists()
    ]


def method_rules():
    """The rules.smk of the methods in use, by method. One that is not Snakemake's language is refused here,
    because as a module it would stop Snakemake with an error that names neither file nor line.
    """
    files = {run.method: Path(run.plugin_path) / "rules.smk" for run in RUNS.values()}
    found = {method: str(path) for method, path in files.items() if path.is_file()}
    for method, path in found.items():
        lines = {}
        try:
            compile(parse(LocalSourceFile(path), workflow, lines)[0], path, "exec")
        except SyntaxError as error:
            line = lines.get(error.lineno, error.lineno)
            raise WorkflowError(
                f"the rules of method '{method}' are broken: {path}, line {line}: {error.msg}"
            )
    return found
