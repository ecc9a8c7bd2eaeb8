"""Bad input ends with one clear message, exit status 2 and no half-written file."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import wait_for

LVIS = Path(__file__).parent / "data" / "lvis_val_100.json"
COMMANDS = [
    "check", "subset", "synthesize", "stats", "list", "show", "why", "make", "train", "predict", "results",
    "evaluate", "table", "status", "plan", "intermediates", "import-checkpoint", "reproduce", "compare",
    "verify", "reference", "export", "cite", "gc", "init", "new-method",
]  # fmt: skip


def longtail(
    *arguments: object, cwd: Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmark.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True, check=False, preexec_fn=before)


def refused(done: subprocess.CompletedProcess[str], *said: object) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1, done.stderr
    for word in said:
        assert str(word) in done.stderr


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from benchmark.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'pandas', 'numpy', 'matplotlib', 'pydantic', 'hotcoco'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True)
    assert done.stdout.endswith("loaded: []\n")
    for command in COMMANDS:
        assert f" {command} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "smoke:bgas"], ["bgas", "bags"]),
        (["show", "smok:bags"], ["smok", "smoke"]),
        (["show", "nonsense"], ["EXPERIMENT:ROW"]),
        (["synthesize", "lvis_v1", "-o", "out"], ["not synthetic"]),
        (["make", "smoke:bags", "retrian"], ["retrian", "retrain"]),
        (["make", "smoke:bags", "retrain"], ["'retrain' of BAGS needs", "not finished", "longtail make"]),
        (["make", "smoke:bags", "train/0123-45"], ["no longer has this step", "since the workflow"]),
        (["reproduce", "bags", "99", "--weights", "absent.pth"], ["no published row", "bags/99"]),
        (["stats", "absent.json", "-o", "out/statistics.csv"], ["absent.json"]),
        (["intermediates", "absent.json", "-o", "out"], ["absent.json"]),
        (["intermediates", LVIS, "-o", "out", "--edges", "10,ten"], ["10,ten", "10,100,1000"]),
        (["intermediates", "inspect", "absent.pt"], ["absent.pt", "label2binlabel.pt"]),
        (["evaluate", "--gt", "absent.json", "--dt", "absent.parquet"], ["absent.json"]),
        (["table", "absent.yaml"], ["absent.yaml"]),
    ],
)  # fmt: skip
def test_wrong_words_name_what_was_meant(arguments: list[object], said: list[str], tmp_path: Path) -> None:
    refused(longtail(*arguments, cwd=tmp_path), *said)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("results/store/*/*"))


def test_a_misspelt_key_names_the_file_and_the_nearest_key(tmp_path: Path) -> None:
    text = "name: mine\ntitle: Mine\nbudgte: smoke\nrows:\n"
    text += "  - {id: a, method: bags, detector: torchvision/tiny_mask_rcnn, dataset: synthetic}\n"
    (tmp_path / "mine.yaml").write_text(text)
    refused(longtail("show", "mine.yaml:a", cwd=tmp_path), "mine.yaml", "budgte", "budget")
    (tmp_path / "mine.yaml").write_text(
        text.replace("budgte", "budget").replace("method: bags", "method: bag")
    )
    refused(longtail("show", "mine.yaml:a", cwd=tmp_path), "mine.yaml", "'bag'", "bags")


@pytest.mark.parametrize("command", ["check", "stats", "subset", "evaluate"])
def test_truncated_json_names_file_and_place(command: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(LVIS.read_bytes()[:100_000])
    arguments = {
        "check": [broken],
        "stats": [broken, "-o", "out/table.csv"],
        "subset": [broken, "--images", 5, "-o", "out/subset.json"],
        "evaluate": ["--gt", broken, "--dt", broken],
    }[command]
    refused(longtail(command, *arguments, cwd=tmp_path), "broken.json", "100")
    assert not (tmp_path / "out").exists()


def test_detections_for_the_other_lvis_version_are_refused(tmp_path: Path) -> None:
    image = json.loads(LVIS.read_text())["images"][0]["id"]
    detections = [{"image_id": image, "category_id": 1231, "score": 0.5, "bbox": [1, 1, 5, 5]}]
    (tmp_path / "dt.json").write_text(json.dumps(detections))
    done = longtail("evaluate", "--gt", LVIS, "--dt", "dt.json", "-o", "out/metrics.json", cwd=tmp_path)
    refused(done, "dt.json", "1231")
    assert not (tmp_path / "out").exists()


def _no_room() -> None:
    """Make the kernel refuse files above 1,000 bytes, like a full disk or an exhausted quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


@pytest.mark.parametrize("command", ["stats", "subset", "synthesize", "intermediates"])
def test_a_full_disk_is_one_message_and_leaves_nothing(command: str, tmp_path: Path) -> None:
    arguments = {
        "stats": [LVIS, "-o", "out/table.csv"],
        "subset": [LVIS, "--images", 80, "-o", "out/subset.json"],
        "synthesize": ["synthetic_tiny", "-o", "out"],
        "intermediates": [LVIS, "-o", "out", "--upstream"],
    }[command]
    refused(longtail(command, *arguments, cwd=tmp_path, before=_no_room), "out", "remedy")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("command", ["stats", "subset", "synthesize", "intermediates"])
def test_a_folder_that_cannot_be_written_is_one_message(command: str, tmp_path: Path) -> None:
    """/proc refuses new files even to root."""
    arguments = {
        "stats": [LVIS, "-o", "/proc/longtail/table.csv"],
        "subset": [LVIS, "--images", 80, "-o", "/proc/longtail/subset.json"],
        "synthesize": ["synthetic_tiny", "-o", "/proc/longtail"],
        "intermediates": [LVIS, "-o", "/proc/longtail/out"],
    }[command]
    refused(longtail(command, *arguments, cwd=tmp_path), "/proc/longtail", "remedy")


def test_real_annotations_are_checked_counted_and_listed(tmp_path: Path) -> None:
    """On 100 real images of LVIS v0.5 the check warns of the annotations whose box and polygon disagree."""
    done = longtail("check", LVIS, "--json", cwd=tmp_path)
    problems = json.loads(done.stdout)
    assert done.returncode == 1
    assert "13 problems: 0 errors, 13 warnings" in done.stderr
    assert {(problem["field"], problem["severity"]) for problem in problems} == {("bbox", "warning")}
    done = longtail("stats", LVIS, "-o", "table.csv", cwd=tmp_path)
    assert done.returncode == 0
    assert "1230 categories" in done.stderr
    assert "977 instances" in done.stderr
    names = {
        entry["name"] for entry in json.loads(longtail("list", "methods", "--json", cwd=tmp_path).stdout)
    }
    assert {"softmax", "sigmoid", "bags"} <= names


def own_data(folder: Path) -> None:
    """A training file of 30 and a validation file of 10 images, all with a mask."""
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for name, first, number in (("train", 1, 30), ("val", 101, 10)):
        images = [
            {"id": i, "width": 64, "height": 48, "file_name": f"{i}.jpg"}
            for i in range(first, first + number)
        ]
        annotations = [
            {"id": i, "image_id": image["id"], "category_id": 1 + i % 2, "bbox": [5, 5, 20, 20], "area": 400}
            | {"segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
            for i, image in enumerate(images, start=1)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_training_and_validation_are_checked_together(tmp_path: Path) -> None:
    own_data(tmp_path)
    done = longtail("check", "train.json", "--val", "val.json", "--masks", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "train.json and val.json: 0 problems" in done.stderr
    done = longtail("check", "train.json", "--val", "val.json", "--images", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: missing image file (40 times)" in done.stdout
    assert "and 35 more" in done.stdout
    val = json.loads((tmp_path / "val.json").read_text())
    val["categories"].pop()
    val["annotations"] = [item for item in val["annotations"] if item["category_id"] == 1]
    (tmp_path / "val.json").write_text(json.dumps(val))
    done = longtail("check", "train.json", "--val", "val.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "category 2, name: found no such category, expected 'dog'" in done.stdout


def test_a_mask_row_never_becomes_box_ap(tmp_path: Path) -> None:
    """A null among the masks of the ground truth ends the evaluation with the name of the record."""
    own_data(tmp_path)
    val = json.loads((tmp_path / "val.json").read_text())
    mask = {"size": [48, 64], "counts": "\\`1d0l0"}
    results = [
        {"image_id": item["image_id"], "category_id": item["category_id"], "score": 0.9, "bbox": item["bbox"]}
        | {"segmentation": mask}
        for item in val["annotations"]
    ]
    (tmp_path / "dt.json").write_text(json.dumps(results))
    val["annotations"][3]["segmentation"] = None
    (tmp_path / "val.json").write_text(json.dumps(val))
    done = longtail("evaluate", "--gt", "val.json", "--dt", "dt.json", "-o", "out/metrics.json", cwd=tmp_path)
    refused(done, "annotation 4", "without a mask", "longtail check", "remedy")
    assert not (tmp_path / "out" / "metrics.json").exists()
    done = longtail("check", "val.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "annotation 4, segmentation: found nothing" in done.stdout


@pytest.mark.parametrize(
    ("words", "recall", "status"),
    [
        ([], "AR@100", 0),
        (["300"], "AR@100", 0),
        (["lvis=7"], "AR@100", 0),
        (["lvis=7", "coco=50"], "AR@50", 0),
    ]
    + [([word], None, 2) for word in ("0", "-1", "coco=", "coco", "pascal=5", "1.5", "9" * 20)],
)
def test_a_cap_is_that_of_its_protocol(
    words: list[str], recall: str | None, status: int, tmp_path: Path
) -> None:
    own_data(tmp_path)
    val = json.loads((tmp_path / "val.json").read_text())
    fields = ("image_id", "category_id", "bbox")
    results = [{field: item[field] for field in fields} | {"score": 0.5} for item in val["annotations"]]
    (tmp_path / "dt.json").write_text(json.dumps(results))
    options = [f"--max-detections={word}" for word in words]
    done = longtail(
        *("evaluate", "--gt", "val.json", "--dt", "dt.json", "-o", "out/metrics.json", *options), cwd=tmp_path
    )
    assert done.returncode == status
    if recall is None:
        refused(done, "--max-detections")
        return
    assert recall in json.loads((tmp_path / "out" / "metrics.json").read_text())["bbox"]
    assert ("is for LVIS" in done.stdout) == (words in (["300"], ["lvis=7"]))


def test_both_subsets_of_a_dataset_are_drawn_alike(tmp_path: Path) -> None:
    own_data(tmp_path)
    pair = ["subset", "train.json", "--images", 12, "-o", "out/train.json", "--val", "val.json"]
    refused(longtail(*pair, cwd=tmp_path), "--val-images", "--val-output")
    done = longtail(
        *pair, *("--val-images", 4, "--val-output", "out/val.json", "--drop", "cat"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "12 of 30 images, 12 of 30 annotations, 1 categories with an image" in done.stderr
    done = longtail("check", "out/train.json", "--val", "out/val.json", cwd=tmp_path)
    assert done.returncode == 0
    refused(
        longtail(*pair, *("--keep", "dgo", "--val-images", 4, "--val-output", "v.json"), cwd=tmp_path), "dog"
    )


def test_intermediate_files_are_made_and_inspected(tmp_path: Path) -> None:
    made = longtail("intermediates", "-o", "out", "--upstream", "--edges", "2 20", LVIS, cwd=tmp_path)
    assert made.returncode == 0
    assert "1230 categories" in made.stderr
    seen = longtail("intermediates", "inspect", "out", cwd=tmp_path)
    assert seen.returncode == 0
    assert "groups.csv: 3 groups of 1230 categories\n  group 1, below 2 instances" in seen.stdout
    seen = longtail("intermediates", "inspect", "out/8bins/valsplit.pkl", "--ann", LVIS, cwd=tmp_path)
    assert "(5, 10): " in seen.stdout
    assert "banana" in seen.stdout


def test_a_stopped_command_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM while images are generated: exit status 3, as for Ctrl-C, and no temporary folder."""
    command = [sys.executable, "-m", "benchmark.cli", "synthesize", "synthetic", "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path)
    wait_for(process, lambda: list(tmp_path.glob(".out.*/images/*.png")), 60)
    process.terminate()
    assert process.wait() == 3
    assert not list(tmp_path.iterdir())


def test_without_arguments_come_first_what_most_people_want(tmp_path: Path) -> None:
    done = longtail(cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.index("longtail new-method") < done.stdout.index(" [OPTIONS] COMMAND")


def test_what_a_script_reads_is_json(tmp_path: Path) -> None:
    """Nothing else is on stdout; messages go to stderr."""
    annotations = json.loads(LVIS.read_text())["annotations"][:100]
    found = [{key: item[key] for key in ("image_id", "category_id", "bbox")} for item in annotations]
    (tmp_path / "dt.json").write_text(json.dumps([{**item, "score": 0.5} for item in found]))
    done = longtail("evaluate", "--gt", LVIS, "--dt", "dt.json", "-o", "metrics.json", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == json.loads((tmp_path / "metrics.json").read_text())
    done = longtail("data", "prepare", "lvis_v1_minival", "--data", "data", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert not any(file["ready"] for file in json.loads(done.stdout))


def test_the_shell_completes_experiments(tmp_path: Path) -> None:
    words = {
        "_LONGTAIL_COMPLETE": "complete_bash",
        "COMP_WORDS": "longtail plan smo",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("longtail")],
        cwd=tmp_path,
        env=os.environ | words,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.stdout.split() == ["smoke", "smoke_seeds"], done.stderr
