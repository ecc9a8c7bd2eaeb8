"""What the workflow plans to do, and how it takes what it cannot do. Nothing is trained here."""

from pathlib import Path

import pytest
import yaml
from project_copy import ROOT, Project
from rule_graph import rule_graph, shown

ROW = {"id": "a", "method": "bags", "detector": "torchvision/tiny_mask_rcnn", "dataset": "synthetic"}


def experiment(folder: Path, *rows: dict[str, object], **settings: object) -> Path:
    path = folder / "mine.yaml"
    content = {"name": "mine", "title": "Mine", "budget": "tiny", "rows": [{**ROW, **row} for row in rows]}
    path.write_text(yaml.safe_dump({**content, **settings}))
    return path


def test_smoke_trains_every_stage_and_shared_bases_once(project: Project) -> None:
    methods = ["softmax", "softmax+rfs_exact", "sigmoid", "bags", "balanced_softmax", "balms", "gumbel"]
    methods += ["gol+synthetic", "simcal+shared_base"]
    retrained = {"bags", "balanced_softmax", "balms", "simcal+shared_base"}
    jobs = {f"{step} {method}": 1 for method in methods for step in ("predict", "evaluate")}
    jobs |= {f"{'retrain' if method in retrained else 'train'} {method}": 1 for method in methods}
    jobs["shared_pass balanced_softmax"] = 2  # with BALMS: both are trained, then tested
    jobs["transform simcal+shared_base"] = 1  # the calibrated head is copied before it is trained
    jobs |= {"train softmax": 2, "synthesize": 2, "statistics": 2}  # all start from a softmax of other data
    assert project.planned() == {"intermediates": 1, **jobs, "table": 1, "all": 1}


def test_a_base_that_is_no_row_is_trained_and_not_evaluated(project: Project) -> None:
    jobs = project.planned(experiment=experiment(project.folder, {}))
    assert {job for job in jobs if "softmax" in job} == {"train softmax"}
    assert {job for job in jobs if "bags" in job} == {"retrain bags", "predict bags", "evaluate bags"}


def test_every_seed_is_a_run(project: Project) -> None:
    jobs = project.planned(experiment=experiment(project.folder, {"method": "softmax", "seeds": [0, 1]}))
    assert jobs["train softmax"] == jobs["evaluate softmax"] == 2


def test_a_sweep_is_a_run_for_every_value_on_one_base(project: Project) -> None:
    """8 is the manifest's own value: its run is that of the plain row. What is trained together is tested
    together, and so are the base and what only changes its weights."""
    sweep = {"id": "b", "sweep": {"others_ratio": [1, 4, 8]}}
    post_hoc = [{"id": method, "method": method} for method in ("softmax", "tau_norm")]
    rows = [{**row, "dataset": "synthetic_tiny"} for row in ({}, sweep, *post_hoc)]
    jobs = project.planned(experiment=experiment(project.folder, *rows))
    runs = ["bags", "bags,others_ratio=1", "bags,others_ratio=4"]
    own = {f"{step} {run}": 1 for step in ("retrain", "predict", "evaluate") for run in runs}
    own["shared_pass bags"] = 2  # over all three: retrainings, then predictions
    own |= {f"{step} {run}": 1 for step in ("predict", "evaluate") for run in ("softmax", "tau_norm")}
    own |= {"shared_pass softmax": 1, "transform tau_norm": 1}
    whole = ("synthesize", "statistics", "intermediates", "train softmax", "table", "all")
    assert jobs == own | dict.fromkeys(whole, 1)


def test_a_broken_sweep_is_answered_before_anything_runs(project: Project) -> None:
    path = experiment(project.folder, {"sweep": {"others_ratio": [1, 1]}})
    done = project.snakemake("-n", experiment=path)
    assert done.returncode != 0
    assert "a value stands twice in a sweep" in done.stdout
    assert "row a, sweep.others_ratio" in done.stdout


def test_an_experiment_without_data_is_a_table_of_reasons(project: Project) -> None:
    assert project.planned(experiment="bags") == {"table": 1, "all": 1}


def test_a_workflow_of_which_every_row_is_skipped_says_so(project: Project) -> None:
    """With the table of reasons, with status 2, and again when it is called again.

    A dry run says it too, and what the rows lack can still be prepared.
    """
    row = {"method": "softmax", "detector": "torchvision/mask_rcnn_r50_fpn", "dataset": "lvis_v0.5"}
    path = experiment(project.folder, row)
    done = project.snakemake("-n", experiment=path)
    assert done.returncode == 0, done.stdout
    assert "1 of 1 rows of mine are skipped: a; longtail plan mine.yaml" in done.stdout
    for _ in range(2):
        done = project.snakemake("--cores", "1", experiment=path)
        assert done.returncode == 2, done.stdout
        assert "error: every row of mine is skipped" in done.stdout
    done = project.snakemake("prepare", "-n", experiment=path)
    assert done.returncode == 0, done.stdout
    table = (project.folder / "results/experiments/mine/table.md").read_text()
    assert "lvis_v0.5_train.json is missing: https://dl.fbaipublicfiles.com/LVIS/" in table
    assert "train2017.zip, SHA-256 69a8bb58" in table


def test_the_picture_in_the_readme_is_the_graph_of_the_rules(tmp_path: Path) -> None:
    assert rule_graph(tmp_path) in shown(), "make shown draws it anew"


def test_the_snakefile_is_a_table_of_contents() -> None:
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"experiment": "smok"}, "did you mean 'smoke'"),
        ({"experiment": "nowhere/mine.yaml"}, "nowhere/mine.yaml"),
    ],
)
def test_a_misspelt_experiment_is_answered(project: Project, arguments: dict[str, str], message: str) -> None:
    done = project.snakemake("-n", **arguments)
    assert done.returncode != 0
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_a_misspelt_key_of_the_configuration_is_refused(project: Project) -> None:
    done = project.snakemake("-n", "--config", "experimnt=smoke", experiment=None)
    assert done.returncode != 0
    assert "'experimnt' was unexpected" in done.stdout


def plugin(folder: Path, rules: str) -> Path:
    """An experiment with a method outside the project that has rules of its own."""
    method = folder / "elsewhere" / "mine"
    method.mkdir(parents=True)
    manifest = yaml.safe_load((folder / "methods/softmax/method.yaml").read_text())
    (method / "method.yaml").write_text(yaml.safe_dump({**manifest, "name": "mine"}))
    (method / "rules.smk").write_text(rules)
    return experiment(folder, {"method": "mine"}, method_paths=["elsewhere"])


def test_the_rules_of_a_method_elsewhere_have_its_name_in_front(project: Project) -> None:
    path = plugin(
        project.folder,
        'rule extra:\n    output:\n        "extra.txt",\n    shell:\n        "echo 1 > {output}"\n',
    )
    assert project.planned("mine_extra", experiment=path) == {"mine_extra": 1}
    done = project.snakemake("extra.txt", experiment=path)
    assert (project.folder / "extra.txt").is_file(), done.stdout


def test_broken_rules_of_a_method_are_placed(project: Project) -> None:
    done = project.snakemake(
        "-n", experiment=plugin(project.folder, "rule extra:\n    output:\n        'a' 'b' = 3\n")
    )
    assert done.returncode != 0
    assert "elsewhere/mine/rules.smk" in done.stdout
    assert "the rules of method 'mine' are broken" in done.stdout


def test_a_broken_method_stops_only_who_uses_it(project: Project) -> None:
    (project.folder / "methods/bags/method.yaml").write_text("name: [")
    users = project.snakemake("-n", experiment="smoke")
    assert users.returncode != 0
    assert "methods/bags/method.yaml, line 2" in users.stdout
    assert project.planned(experiment=experiment(project.folder, {"method": "sigmoid"}))["train sigmoid"] == 1


def test_an_experiment_may_be_planned_with_another_detector(project: Project) -> None:
    """For every row, in a table of its own; a preset that is not there is answered."""
    path = experiment(project.folder, {}, {"id": "b", "method": "softmax"})
    done = project.snakemake("-n", experiment=path, detector="torchvision/tiny_faster_rcnn")
    assert done.returncode == 0, done.stdout
    assert "torchvision/tiny_faster_rcnn/softmax/seed0" in done.stdout
    assert "tiny_mask_rcnn/" not in done.stdout
    assert "results/experiments/mine_torchvision_tiny_faster_rcnn/table.md" in done.stdout
    done = project.snakemake("-n", experiment=path, detector="torchvision/tiny_fast_rcnn")
    assert done.returncode != 0
    assert "did you mean" in done.stdout


def test_cores_memory_and_loading_processes_of_a_training_follow_its_gpus(project: Project) -> None:
    """A step that takes no GPU has no such resource: to Kubernetes even 0 of them means a node with GPUs."""
    file = experiment(project.folder, {"method": "softmax"})
    options = ("-n", "--cores", "64", "--set-resources", "train:gpu=4")
    text = project.snakemake(*options, experiment=file).stdout
    jobs = {job.partition(":")[0]: job for job in text.split("\nrule ")[1:]}
    assert "threads: 32" in jobs["train"]
    for resource in ("gpu=4", "devices=4", "workers=7", "mem_mb=8000"):
        assert f" {resource}" in jobs["train"]
    assert " devices=0" in jobs["predict"]
    assert " gpu=" not in jobs["predict"]


def test_a_call_without_a_profile_is_warned(project: Project) -> None:
    """With Snakemake's own triggers it may leave out steps and call that a success."""
    path = experiment(project.folder, {"method": "softmax"})
    warning = "warning: without a profile"
    assert warning in project.snakemake("-n", experiment=path, profile=None).stdout
    assert warning not in project.snakemake("-n", experiment=path).stdout
