# The experiment, its steps, and what the rules ask about them.
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.parser import parse
from snakemake.sourcecache import LocalSourceFile

from benchmark.errors import BenchmarkError
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

# Memory of a finished operation stays with the process for the next one: glibc would give every large block back
# to the system, and fetching it anew takes a fifth of the time of a prediction on the CPU.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 * 2**30))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(8 * 2**30))

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
# Snakemake itself learns its targets only after it has read this file.
PREPARES = "prepare" in sys.argv[1:]


def refuse_if_all_skipped():
    """Exit status 2, as after other bad input, where no row can run here; the table has the reasons. What the rows
    lack can still be prepared."""
    if not PREPARES and all(row.skipped is not None for row in EXPERIMENT.rows):
        message = f"every row of {EXPERIMENT.name} is skipped: see {TABLES}/table.md"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def near(recipe):
    """A recipe or path as rules name it: relative where it can be."""
    return recipe.removeprefix(f"{Path.cwd()}/")


SKIPPED = [row.row.id for row in EXPERIMENT.rows if row.skipped is not None]
if SKIPPED and not PREPARES:
    print(
        f"{len(SKIPPED)} of {len(EXPERIMENT.rows)} rows of {EXPERIMENT.name} are skipped:",
        f"{', '.join(SKIPPED)}; longtail plan {shlex.quote(near(config['experiment']))} says what they lack",
        file=sys.stderr,
    )

# Nothing is left to do where the table of reasons is there, and `onsuccess` is not called.
if Path(TABLES, MADE, REPORT_KEY).exists():
    refuse_if_all_skipped()


wildcard_constraints:
    key=r"[0-9a-f]+(-[0-9a-f]+)?",


def planned(kind, wildcards):
    """The step that a rule's wildcard names, with its recipe; of those of a shared pass the first."""
    if kind == PASS.name:
        return PLANNED[PASSES[wildcards.key].steps[0].place]
    return PLANNED[f"{kind}/{wildcards.key}"]


def outputs_of(kind):
    """The declared outputs of a kind: a stamp that the step is done, not what it made. If Snakemake was killed while a
    job ran on, it takes the job for incomplete, removes what is declared and runs it again; a finished training must
    survive that. Metrics, which take a minute, are declared for Snakemake's report."""
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
    """Input function: that every step before is done, and the pass that the step shares with others has been made. A
    step that the pass could not finish is made by its own job. Inputs are `ancient`, because a copied store has other
    modification times."""

    def done(wildcards):
        step = planned(kind, wildcards).step
        passes = [shared for shared in PASSES.values() if step.place in shared.makes]
        return [ancient(str(item.done)) for item in [*step.needs, *passes]]

    return done


def inputs_of_pass(wildcards):
    """That everything is done that one of the pass's steps needs."""
    return [ancient(str(item.done)) for item in PASSES[wildcards.key].inputs]


def recipe_of(kind):
    """Resource function: the recipe of the step for the command line."""
    return lambda wildcards: near(planned(kind, wildcards).recipe)


def owner_of(kind):
    """Resource function: whose step it is, for the reader of a dry run."""
    return lambda wildcards: planned(kind, wildcards).step.subject.owner


def members_of_pass(wildcards):
    """Resource function: whose steps a pass can make, for the reader of a dry run."""
    return " ".join(step.subject.owner for step in PASSES[wildcards.key].steps)


def kind_of_pass(wildcards):
    """Resource function: what a pass makes, for the reader of a dry run."""
    return PASSES[wildcards.key].steps[0].kind.name


def small(kind, wildcards):
    """Whether a step is for CPU cores: that of a detector of small pictures, or of a dataset."""
    step = planned(kind, wildcards).step
    return step.kind.of_dataset or step.run.detector.for_cpu


def cores(kind):
    """Threads of a step."""
    return lambda wildcards: (
        kind.cores if not kind.on_gpu or small(kind.name, wildcards) else 8
    )


def gpus(kind):
    """GPUs of a step."""
    return lambda wildcards: 0 if not kind.on_gpu or small(kind.name, wildcards) else 1


def memory(kind):
    """MB of main memory, more with every attempt."""
    return (
        lambda wildcards, attempt: kind.memory_mb[not small(kind.name, wildcards)]
        * attempt
    )


def minutes(kind):
    """The time limit, longer with every attempt."""
    return (
        lambda wildcards, attempt: kind.minutes[not small(kind.name, wildcards)]
        * attempt
    )


def finished_rows():
    """That the evaluation is done of every run that is a row of the table and can run here."""
    rows = [row for row in EXPERIMENT.rows if row.skipped is None]
    return sorted({str(steps_of(run)[-1].done) for row in rows for run in row.runs})


def method_rules():
    """The rules.smk of the methods in use, by method. One that is not Snakemake's language is refused here,
    because as a module it would stop Snakemake with an error that names neither file nor line.
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
