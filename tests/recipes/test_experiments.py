"""Experiments stand for runs; what cannot run here is skipped with a reason."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from recipe_files import write_experiment, write_method

from benchmark.recipes import (
    LoadedExperiment,
    RecipeError,
    describe,
    find_run,
    load_dataset,
    load_experiment,
    with_detector,
)
from benchmark.recipes.catalog import yaml_files
from benchmark.recipes.paths import run_name
from benchmark.recipes.project import project_root
from benchmark.recipes.scaffold import new_project
from benchmark.schemas import PAGE, SCHEMAS, page_text, schema_text
from benchmark.steps import find_step, steps_of, steps_of_experiment


def trained(experiment: LoadedExperiment) -> list[tuple[str, int]]:
    """Method and seed of every run that trains something and can do so here."""
    steps = [planned.step for planned in steps_of_experiment(experiment).values()]
    return list({run_name(s.run): (s.run.method, s.run.seed) for s in steps if s.kind.trains}.values())


def test_every_shipped_file_is_understood() -> None:
    for kind in ("methods", "detectors", "datasets", "experiments"):
        assert [entry for entry in describe(kind) if "broken" in entry] == []
    for name in yaml_files("experiments"):
        assert load_experiment(name).rows


def test_the_schemas_are_those_of_the_models() -> None:
    for name in SCHEMAS:
        file = project_root() / "workflows" / "schemas" / f"{name}.schema.json"
        assert file.read_text() == schema_text(name), "run python -m benchmark.schemas"
    assert file.with_name(PAGE).read_text() == page_text(), "run python -m benchmark.schemas"


def test_every_key_is_explained() -> None:
    """Each line of the page has a meaning in its last cell."""
    lines = [line for line in page_text().splitlines() if line.startswith("| `")]
    assert len(lines) > 80
    for line in lines:
        assert not line.endswith("|  |"), line


def test_smoke_has_a_row_for_every_headline_method_and_no_other_run() -> None:
    experiment = load_experiment("smoke")
    assert [row.skipped for row in experiment.rows] == [None] * 9
    methods = [
        "bags",
        "balanced_softmax",
        "balms",
        "gol",
        "gumbel",
        "sigmoid",
        "simcal",
        "softmax",
        "softmax",
    ]
    assert sorted(trained(experiment)) == [(method, 0) for method in methods]


def test_a_base_that_is_no_row_is_a_run_all_the_same(tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(tmp_path, {"method": "bags", "seeds": [0, 3]}))
    assert sorted(trained(experiment)) == [("bags", 0), ("bags", 3), ("softmax", 0), ("softmax", 3)]
    for place, planned in steps_of_experiment(experiment).items():
        assert find_step(find_run(planned.recipe), place) is not None


def test_missing_data_skips_a_row_and_says_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGTAIL_DATA", str(tmp_path))
    experiment = load_experiment("balms")
    reason = experiment.rows[0].skipped
    assert reason is not None
    assert str(tmp_path / "lvis_v0.5/lvis_v0.5_train.json") in reason
    assert "LONGTAIL_DATA" in reason
    lines = reason.splitlines()  # everything that is lacking, each with its address and checksum
    assert len(lines) == 4
    assert "http://images.cocodataset.org/zips/train2017.zip, SHA-256 69a8bb58" in reason
    assert "lvis_v0.5_val.json.zip, SHA-256 not published" in reason
    assert trained(experiment) == []

    (tmp_path / "coco").mkdir()
    (tmp_path / "lvis_v0.5").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"lvis_v0.5/lvis_v0.5_{split}.json").touch()
    assert load_experiment("balms").rows[0].skipped is None
    reasons = {row.id: row.skipped or "" for row in load_experiment("bags").rows}
    assert {row for row, reason in reasons.items() if reason} == {
        "15",
        "16",
        "17",
        "18",
        "21",
        "22",
        "23",
        "24",
    }
    assert "torchvision publishes no COCO weights" in reasons["15"]  # ResNeXt-101: only from a local file
    assert "torchvision publishes no COCO weights" in reasons["16"]
    for row in ("17", "24"):
        installed = importlib.util.find_spec("mmdet") is not None
        assert ("publishes no COCO weights" if installed else "'mmdet' is not installed") in reasons[row]


def test_a_back_end_that_is_not_installed_skips_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Snakefile").touch()
    for kind in ("detectors", "datasets", "experiments"):
        (tmp_path / "workflows" / kind).mkdir(parents=True)
    preset = {"architecture": "mask_rcnn", "backbone": "resnet18"}
    (tmp_path / "workflows/detectors/no_such_backend.yaml").write_text(yaml.safe_dump({"big": preset}))
    root = project_root()
    (tmp_path / "methods").symlink_to(root / "methods")
    (tmp_path / "workflows/datasets/synthetic.yaml").symlink_to(root / "workflows/datasets/synthetic.yaml")
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(write_experiment(tmp_path, {"detector": "no_such_backend/big"}))
    assert (experiment.rows[0].skipped or "").splitlines()[0] == "back end 'no_such_backend' is not installed"


@pytest.mark.parametrize(
    "recipe",
    ["smoke", "smoke:", ":bags", "smoke:bags:x", "smoke:bags:0:1", "", "base", ":base", "smoke:bags:0:bases"],
)
def test_what_is_no_recipe_is_refused(recipe: str) -> None:
    with pytest.raises(RecipeError, match="not a recipe"):
        find_run(recipe)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [("smok:bags", "'smoke'"), ("smoke:bag", "'bags'"), ("smoke:softmax:0:base", "starts from no other run")],
)
def test_recipes_that_do_not_exist_are_answered(recipe: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        find_run(recipe)


def test_a_file_may_have_colons_in_its_path_and_a_row_may_be_called_base(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    path = write_experiment(tmp_path / "a:b", {"id": "base", "method": "bags"})
    assert find_run(f"{path}:base").method == "bags"
    assert find_run(f"{path}:base:0:base").method == "softmax"


def test_any_seed_may_be_asked_for() -> None:
    assert find_run("smoke:bags:7").seed == 7
    assert find_run("smoke:bags").seed == 0


def test_an_experiment_is_a_name_or_a_file(tmp_path: Path) -> None:
    file = project_root() / "workflows/experiments/smoke.yaml"
    assert load_experiment(str(file)) == load_experiment("smoke")
    assert load_dataset(str(project_root() / "workflows/datasets/synthetic.yaml")) == load_dataset(
        "synthetic"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "other"}, "the name of its file"),
        ({"budget": "smok"}, "did you mean 'smoke'"),
        ({"rows": []}, "rows"),
        ({"dataset_paths": ["nowhere"]}, "nowhere"),
    ],
)
def test_broken_experiments_are_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_experiment(write_experiment(tmp_path, **settings))


@pytest.mark.parametrize(("seeds", "message"), [([0, 0], "twice"), ([-1], "greater than or equal to 0")])
def test_every_seed_is_one_run_with_a_folder(tmp_path: Path, seeds: list[int], message: str) -> None:
    """A seed that stands twice would count as two runs with no spread."""
    with pytest.raises(RecipeError, match=message):
        load_experiment(write_experiment(tmp_path, {"seeds": seeds}))


def test_rows_have_different_names(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="two rows have one id"):
        load_experiment(write_experiment(tmp_path, {}, {}))


def test_a_dataset_beside_the_experiment_is_found_and_may_not_hide_another(tmp_path: Path) -> None:
    sizes = {"train_images": 5, "val_images": 5, "image_size": 64, "categories": 3}
    content = {"name": "mine", "title": "Mine", "categories": 3, "synthetic": sizes}
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "mine.yaml").write_text(yaml.safe_dump(content))
    path = write_experiment(tmp_path, {"dataset": "mine"}, dataset_paths=["sets"])
    assert find_run(f"{path}:a").dataset.categories == 3
    (tmp_path / "sets" / "synthetic.yaml").write_text(yaml.safe_dump({**content, "name": "synthetic"}))
    with pytest.raises(RecipeError, match="two datasets are named 'synthetic'"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"all": {"iteration": 5}}, "did you mean 'iterations'"),
        ({"all": {"iterations": 0}}, "greater than 0"),
        ({"sampler": {"treshold": 0.1}}, "did you mean 'threshold'"),
    ],
)
def test_settings_of_a_budget_are_checked(tmp_path: Path, content: dict[str, object], message: str) -> None:
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"name": "b", **content}))
    with pytest.raises(RecipeError, match=message):
        load_experiment(write_experiment(tmp_path, budget="b.yaml"))


def test_recipes_need_no_torch() -> None:
    code = "import sys, benchmark.recipes as r; r.load_experiment('smoke'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_detector_for_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows, found from where the file is written; they no longer answer to published numbers."""
    monkeypatch.chdir(tmp_path)
    path = with_detector("gol", "torchvision/tiny_mask_rcnn")
    loaded, before = load_experiment(str(path)), load_experiment("gol")
    assert loaded.name == "gol_torchvision_tiny_mask_rcnn"
    assert [row.id for row in loaded.rows] == [row.id for row in before.rows]
    assert {run.detector_name for row in loaded.rows for run in row.runs} == {"torchvision/tiny_mask_rcnn"}
    assert not any(row.entry.reported for row in loaded.rows)
    times = path.stat().st_mtime_ns
    assert with_detector("gol", "torchvision/tiny_mask_rcnn").stat().st_mtime_ns == times


def test_a_published_model_in_another_back_end_answers_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R101 stays R101; the deviation says that nothing but the back end is another."""
    monkeypatch.chdir(tmp_path)
    rows = {row.id: row for row in load_experiment(str(with_detector("gol", "mmdet/mask_rcnn_r50_fpn"))).rows}
    before = {row.id: row for row in load_experiment("gol").rows}
    assert {name: row.entry.reported for name, row in rows.items()} == {
        name: row.entry.reported for name, row in before.items()
    }
    assert rows["gol_r101"].entry.detector == "mmdet/mask_rcnn_r101_fpn"
    assert rows["gol_r50"].entry.detector == "mmdet/mask_rcnn_r50_fpn"
    (said,) = rows["gol_r101"].deviations
    assert (said.effect, said.here) == ([0.0, 0.0], "mmdet/mask_rcnn_r101_fpn")


def test_what_differs_between_two_presets_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = load_experiment(str(with_detector("balms", "detectron2/mask_rcnn_r50_fpn"))).rows[-1]
    (said,) = row.deviations
    assert row.entry.reported == "balms/balms"
    assert "pixels caffe" in said.upstream
    assert "pixels torchvision" in said.here
    assert said.effect is None


def test_rows_of_another_architecture_answer_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class-agnostic heads exist in the back end under their own name; tiny ones replace everything."""
    monkeypatch.chdir(tmp_path)
    rows = load_experiment(str(with_detector("simcal", "mmdet/mask_rcnn_r50_fpn"))).rows
    assert {row.entry.detector for row in rows} == {
        "mmdet/mask_rcnn_r50_fpn",
        "mmdet/mask_rcnn_r50_fpn_agnostic",
        "mmdet/htc_x101_64x4d_ms_dcn_fpn",
    }
    rows = load_experiment(str(with_detector("bags", "torchvision/tiny_mask_rcnn"))).rows
    assert all(row.entry.reported is None and not row.deviations for row in rows)


def test_options_of_a_row_make_a_run_of_their_own(tmp_path: Path) -> None:
    rows = [{"id": "plain", "method": "bags"}, {"id": "few", "method": "bags", "options": {"edges": [5, 50]}}]
    plain, few = (row.runs[0] for row in load_experiment(write_experiment(tmp_path, *rows)).rows)
    assert few.options == plain.options | {"edges": [5, 50]}
    assert few.title == "BAGS (edges [5, 50])"
    assert few.base == plain.base  # the softmax model is that of both
    assert run_name(few) == run_name(plain).replace("/bags/", "/bags,edges=5_50/") != run_name(plain)
    keys = [{step.name: step.key for step in steps_of(run)} for run in (plain, few)]
    different = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    assert different == {"intermediates", "retrain", "predict", "evaluate"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edgse": [5]}, "did you mean 'edges'"),
        ({"edges": 5}, "expected: a list"),
        ({"reweighted": 1}, "expected: true/false"),
    ],
)
def test_options_that_the_method_does_not_have_are_refused(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write_experiment(tmp_path, {"method": "bags", "options": options})
    with pytest.raises(RecipeError, match=message) as caught:
        load_experiment(path)
    assert "row a, options" in str(caught.value)


def test_a_folder_to_work_in_adds_to_what_the_project_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_project(tmp_path)
    (tmp_path / "workflows/detectors").mkdir()
    preset = {"architecture": "mask_rcnn", "backbone": "resnet18"}
    (tmp_path / "workflows/detectors/torchvision.yaml").write_text(yaml.safe_dump({"own": preset}))
    monkeypatch.chdir(tmp_path)
    detectors = {entry["name"] for entry in describe("detectors")}
    assert {"torchvision/own", "torchvision/tiny_mask_rcnn"} <= detectors
    assert {"first", "smoke"} <= {entry["name"] for entry in describe("experiments")}
    assert find_run("first:bags").dataset.name == "synthetic"


def test_a_name_that_a_folder_gives_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_project(tmp_path)
    (tmp_path / "workflows/experiments/smoke.yaml").write_text("name: smoke\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="two experiments are named 'smoke'"):
        load_experiment("smoke")


def test_a_project_is_not_written_over_another(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(RecipeError, match="there is a project already"):
        new_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_an_experiment_like_another_takes_the_keys_that_it_does_not_write(tmp_path: Path) -> None:
    """Its rows answer to no published number where it has another schedule."""
    for row in load_experiment("field").rows:
        assert row.comparable == (row.entry.reported is not None)
    before = load_experiment("field")
    likewise = load_experiment("field_2x_rfs")
    ids = [row.id for row in before.rows]
    assert [row.id for row in likewise.rows] == [id_ for id_ in ids if id_ != "rfs"]
    assert likewise.metrics == before.metrics == ("AP-fixed", "ECE")
    assert all(row.touches for row in likewise.rows)
    assert not any(row.entry.reported or row.deviations for row in likewise.rows)
    lengths = {
        stage.schedule.epochs
        for row in likewise.rows
        for run in row.runs
        for stage in run.stages
        if stage.schedule
    }
    assert lengths == {24}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"like": "fild"}, "did you mean 'field'"),
        ({"like": "field", "without": ["rsf"]}, "did you mean 'rfs'"),
        ({"like": "e"}, "in a circle"),
        ({"like": "one_row", "without": ["a"]}, "needs the key 'rows'"),
        ({"without": ["a"]}, "without"),
        ({"metrics": ["AP_fixed"]}, "AP-fixed"),
    ],
)
def test_what_an_experiment_cannot_be_like_is_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    other = yaml.safe_load(Path(write_experiment(tmp_path)).read_text())
    (tmp_path / "one_row.yaml").write_text(yaml.safe_dump({**other, "name": "one_row"}))
    path = Path(write_experiment(tmp_path, **settings))
    if "like" in settings:
        content = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "rows"}
        path.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=message):
        load_experiment(str(path))


def test_folders_of_another_experiment_are_found_from_where_it_lies(tmp_path: Path) -> None:
    write_method(tmp_path / "methods", "mine")
    (tmp_path / "b.yaml").write_text("{name: b, all: {iterations: 3}}")
    write_experiment(tmp_path, {"method": "mine"}, method_paths=["methods"], budget="b.yaml")
    for name, budget in (("f", ""), ("g", ", budget: tiny")):
        (tmp_path / f"{name}.yaml").write_text(f"{{name: {name}, title: T, like: e{budget}}}")
        (row,) = load_experiment(str(tmp_path / f"{name}.yaml")).rows
        assert (row.runs[0].method, row.runs[0].budget) == ("mine", "tiny" if budget else "b")
