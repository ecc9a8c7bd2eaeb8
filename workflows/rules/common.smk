# The experiment, its steps, and the functions that the rules use.
import base64
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.parser import parse
from snakemake.sourcecache import LocalSourceFile

from benchmark.errors import BenchmarkError
from benchmark.memory import KEEP_MEMORY
from benchmark.recipes import load_experiment, with_detector
from benchmark.recipes.loading import read_yaml
from benchmark.recipes.paths import experiment_folder
from benchmark.reporting.report import MADE, report_key
from benchmark.steps import KINDS, MAIN, steps_of, steps_of_experiment
from benchmark.steps.listing import EVALUATE
from benchmark.steps.sharing import PASS, shared_passes
from benchmark.steps.step import DONE

# The `longtail` of the interpreter that runs Snakemake, whether or not its environment is activated.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)

os.environ.update(KEEP_MEMORY | dict(os.environ))

try:
    file = config["experiment"]
    if "detector" in config:
        file = str(with_detector(file, config["detector"]))
    EXPERIMENT = load_experiment(file)
    PLANNED = steps_of_experiment(EXPERIMENT)
    PASSES = {
        shared.key: shared
        for shared in shared_passes(item.step for item in PLANNED.values())
    }
    REPORT_KEY = report_key(EXPERIMENT)
except BenchmarkError as error:
    raise WorkflowError(str(error)) from None

TABLES = str(experiment_folder(EXPERIMENT.name))
# Snakemake itself parses its targets only after it has read this file.
PREPARES = "prepare" in sys.argv[1:]


# By other triggers than modification times, Snakemake runs finished steps again whose shared pass is no longer among their
# inputs; then (9.27) it leaves out what comes after them, and calls that a success.
if not any(
    word.startswith(("--workflow-profile", "--profile", "--rerun-triggers", "--lint"))
    for word in sys.argv
):
    print(
        "warning: without a profile Snakemake may run finished steps again and leave out others:",
        "add --workflow-profile workflows/profiles/local, or --rerun-triggers mtime",
        file=sys.stderr,
    )


def refuse_if_all_skipped():
    """Exit with status 2, as for other bad input, if no row can run here; the table has the reasons. The missing files
    can still be prepared."""
    if not PREPARES and all(row.skipped is not None for row in EXPERIMENT.rows):
        message = f"every row of {EXPERIMENT.name} is skipped: see {TABLES}/table.md"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def relative(recipe):
    """A recipe or path for rules, relative if possible."""
    return recipe.removeprefix(f"{Path.cwd()}/")


SKIPPED = [row.id for row in EXPERIMENT.rows if row.skipped is not None]
if SKIPPED and not PREPARES:
    print(
        f"{len(SKIPPED)} of {len(EXPERIMENT.rows)} rows of {EXPERIMENT.name} are skipped:",
        f"{', '.join(SKIPPED)}; longtail plan {shlex.quote(relative(config['experiment']))} says what they lack",
        file=sys.stderr,
    )

# If the table with the reasons exists, there is nothing to do, and `onsuccess` is not called.
if Path(TABLES, MADE, REPORT_KEY).exists():
    refuse_if_all_skipped()


def trust_finished_steps():
    """Remove Snakemake's notes that it was killed while the job of a step ran, where the job ended well nevertheless:
    the store never holds half a step. Otherwise Snakemake 9.27 runs the noted jobs alone and not what comes after them,
    and calls that a success."""
    for item in PLANNED.values():
        if item.step.finished:
            for file in (item.step.done, item.step.output()):
                note = base64.urlsafe_b64encode(str(file).encode()).decode()
                Path(".snakemake", "incomplete", note).unlink(missing_ok=True)


trust_finished_steps()


wildcard_constraints:
    key=r"[0-9a-f]+(-[0-9a-f]+)?",


def planned(kind, wildcards):
    """The step of a rule's wildcard, with its recipe; the first step of a shared pass."""
    if kind == PASS.name:
        return PLANNED[PASSES[wildcards.key].steps[0].place]
    return PLANNED[f"{kind}/{wildcards.key}"]


def outputs_of(kind):
    """The declared outputs of a kind: a stamp that the step is done, not its results. If Snakemake is killed while a job
    continues, it considers the job incomplete, removes the declared outputs and runs it again; a finished training
    must survive this. Metrics, which take a minute, are declared for Snakemake's report.
    """
    folder = f"results/store/{kind.name}/{{key}}"
    files = {"done": f"{folder}/{DONE}"}
    if kind is EVALUATE:
        files["metrics"] = report(
            f"{folder}/{kind.outputs[MAIN]}",
            category="Runs",
            labels={"step": "{key}"},
            caption="../captions/metrics.rst",
        )
    return files


def inputs_of(kind):
    """Input function: the stamps of the steps before, and of the pass that the step shares with others. A step that the
    pass could not finish is made by its own job. Inputs are `ancient`, because a copied store has other modification
    times."""

    def done(wildcards):
        step = planned(kind, wildcards).step
        passes = [shared for shared in PASSES.values() if step.place in shared.makes]
        return [ancient(str(item.done)) for item in [*step.needs, *passes]]

    return done


def inputs_of_pass(wildcards):
    """The stamps of all steps that a step of the pass needs."""
    return [ancient(str(item.done)) for item in PASSES[wildcards.key].inputs]


def recipe_of(kind):
    """Resource function: the recipe of the step for the command line."""
    return lambda wildcards: relative(planned(kind, wildcards).recipe)


def owner_of(kind):
    """Resource function: the owner of the step, for the reader of a dry run."""
    return lambda wildcards: planned(kind, wildcards).step.subject.owner


def members_of_pass(wildcards):
    """Resource function: the owners of the steps of a pass, for the reader of a dry run."""
    return " ".join(step.subject.owner for step in PASSES[wildcards.key].steps)


def kind_of_pass(wildcards):
    """Resource function: the kind of step that a pass makes, for the reader of a dry run."""
    return PASSES[wildcards.key].steps[0].kind.name


def runs_on_cpu(kind, wildcards):
    """Whether a step runs on the CPU: that of a detector of small images, or of a dataset."""
    step = planned(kind, wildcards).step
    return step.kind.of_dataset or step.run.detector.for_cpu


def processes(kind, wildcards):
    """GPUs of a step, and processes: what `--set-resources KIND:gpu=N` says, else one for each large detector. Cores and
    memory are in proportion."""
    if not kind.on_gpu:
        return 0
    asked = workflow.resource_settings.overwrite_resources.get(kind.name, {})
    if "gpu" in asked:
        return int(asked["gpu"].value)
    return 0 if runs_on_cpu(kind.name, wildcards) else 1


def cores(kind):
    """Threads of a step: 8 for each GPU."""
    return lambda wildcards: 8 * processes(kind, wildcards) or kind.cores


def devices(kind):
    """GPUs of a step, for the command line."""
    return lambda wildcards: processes(kind, wildcards)


def gpus(kind):
    """GPUs of a step as executors ask for them: one that takes none does not have the resource, because that of Kubernetes
    makes a GPU node of it whatever the number."""
    return lambda wildcards: processes(kind, wildcards) or None


def workers(kind):
    """Loading processes of each process of a step, which has a core for itself."""
    return lambda wildcards, threads: max(
        0, threads // max(1, processes(kind, wildcards)) - 1
    )


def memory(kind):
    """MB of main memory, increased with every attempt."""
    return (
        lambda wildcards, attempt: kind.memory_mb[not runs_on_cpu(kind.name, wildcards)]
        * max(1, processes(kind, wildcards))
        * attempt
    )


def minutes(kind):
    """The time limit in minutes, increased with every attempt."""
    return (
        lambda wildcards, attempt: kind.minutes[not runs_on_cpu(kind.name, wildcards)]
        * attempt
    )


def finished_rows():
    """The stamps of the evaluations of all rows that can run here."""
    rows = [row for row in EXPERIMENT.rows if row.skipped is None]
    return sorted({str(steps_of(run)[-1].done) for row in rows for run in row.runs})


def method_rules():
    """The rules.smk of the methods in use, by method. Invalid files are refused here, because as a module they would
    stop Snakemake with an error that names neither file nor line.
    """
    steps = [item.step for item in PLANNED.values() if not item.step.kind.of_dataset]
    files = {
        step.run.method: Path(step.run.plugin_path) / "rules.smk" for step in steps
    }
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
