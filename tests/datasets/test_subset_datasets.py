"""A subset is drawn from downloaded annotations, and only its own images are downloaded."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets.lvis_site import SIZES, SPLITS, lvis_site, write_subset
from datasets.web_server import Files
from PIL import Image

from benchmark.annotations import check_dataset, synthesize_dataset
from benchmark.datasets import Prepared, download, photographs, prepare_dataset
from benchmark.recipes import load_dataset
from benchmark.recipes.models import Dataset


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(photographs, "PAUSE", 0.0)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    synthesize_dataset(SIZES, folder)
    return folder


@pytest.fixture
def site(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.chdir(tmp_path)
    with lvis_site(generated, tmp_path) as site:
        yield site


def few_dataset() -> Dataset:
    return load_dataset("few.yaml")


def prepare(coco: Path | None = None) -> dict[str, Prepared]:
    done = prepare_dataset(few_dataset(), Path("data"), coco, lambda _: None)
    return {str(item.path): item for item in done}


def records() -> list[dict[str, Any]]:
    return [
        image
        for split in SPLITS
        for image in json.loads(Path(f"data/few/{split}.json").read_text())["images"]
    ]


def addresses(site: Files) -> set[str]:
    return {image["coco_url"].removeprefix(site.url) for image in records()}


def images_asked(site: Files) -> Counter[str]:
    return Counter(path for path in site.asked if path.endswith(".jpg"))


def images_there() -> set[str]:
    return {f"/{path.relative_to('data/few/images')}" for path in Path("data/few/images").rglob("*.jpg")}


def test_only_the_images_of_the_subset_are_fetched_and_a_second_call_fetches_nothing(site: Files) -> None:
    done = prepare()
    assert all(item.ready for item in done.values())
    assert images_asked(site) == Counter(addresses(site))
    assert len(addresses(site)) == 30
    assert "30 fetched" in done["data/few/images"].text
    assert sorted(path.name for path in Path("data/few/images").iterdir()) == ["train2017", "val2017"]
    errors = [
        problem
        for problem in check_dataset(
            "data/few/train.json", "data/few/val.json", "data/few/images", masks=True
        )
        if problem.severity == "error"
    ]
    assert errors == []
    site.asked.clear()
    assert "30 there" in prepare()["data/few/images"].text
    assert site.asked == []
    Path("data/all/all_train.json").unlink()  # a gigabyte of LVIS, which nothing reads any more
    assert all(item.ready for item in prepare().values())
    assert site.asked == []


def test_the_draw_is_the_definitions_and_not_the_machines(site: Files) -> None:
    prepare()
    before = {split: Path(f"data/few/{split}.json").read_bytes() for split in SPLITS}
    Path("data/few/val.json").write_bytes(before["val"][:-10])  # killed at a bad moment, or edited
    prepare()
    assert {split: Path(f"data/few/{split}.json").read_bytes() for split in SPLITS} == before
    asked = len(images_asked(site))
    write_subset(Path(), seed=1)
    prepare()
    assert Path("data/few/train.json").read_bytes() != before["train"]
    assert addresses(site) <= images_there()  # what both have is not fetched again
    assert len(images_asked(site)) < asked + 30
    assert max(images_asked(site).values()) == 1


@pytest.mark.parametrize("fault", ["broken", "wrong", "503", "slow"])
def test_an_image_is_tried_again_after_a_fault(
    site: Files, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "slow":
        monkeypatch.setattr(photographs, "DEADLINE", 5.0)  # so long that no other image reaches it
    site.faults = {path: [fault] for path in sorted(site.bodies)[::7] if path.endswith(".jpg")}
    faulty = set(site.faults)
    assert all(item.ready for item in prepare().values())
    asked = images_asked(site)
    assert {path for path in asked if asked[path] == 2} == faulty & addresses(site) != set()
    assert site.waited_for == []
    for path in addresses(site):
        assert Path(f"data/few/images{path}").read_bytes() == site.bodies[path]


@pytest.mark.parametrize(
    ("fault", "reason", "tries"), [("wrong", "no image", 3), ("404", "404", 1), ("503", "503", 3)]
)
def test_what_stays_wrong_is_missing_with_its_reason_and_nothing_else_is(
    site: Files, fault: str, reason: str, tries: int
) -> None:
    prepare()
    one = sorted(addresses(site))[3]
    Path(f"data/few/images{one}").unlink()
    site.faults, site.asked = {one: [fault] * tries}, []
    (missing,) = [item for item in prepare().values() if not item.ready]
    assert missing.path == Path("data/few/images")
    assert "1 of 30 missing" in missing.text
    assert one in missing.text
    assert reason in missing.text
    assert images_asked(site) == Counter({one: tries})
    assert images_there() == addresses(site) - {one}
    assert all(item.ready for item in prepare().values())


def test_a_picture_of_another_size_is_not_taken_for_the_right_one(site: Files) -> None:
    prepare()
    one = sorted(addresses(site))[0]
    other = io.BytesIO()
    Image.new("RGB", (64, 32)).save(other, "JPEG")
    Path(f"data/few/images{one}").unlink()
    right, site.bodies[one] = site.bodies[one], other.getvalue()
    (missing,) = [item for item in prepare().values() if not item.ready]
    assert "another size" in missing.text
    site.bodies[one] = right
    assert all(item.ready for item in prepare().values())


def test_a_damaged_file_that_is_there_is_replaced(site: Files) -> None:
    prepare()
    one = sorted(addresses(site))[0]
    path = Path(f"data/few/images{one}")
    path.write_bytes(site.bodies[one][:-200])
    assert "1 fetched, 29 there" in prepare()["data/few/images"].text
    assert path.read_bytes() == site.bodies[one]


def test_images_of_a_coco_folder_are_linked(site: Files) -> None:
    """From ``--coco`` and from the data folder; a damaged file there is downloaded instead."""
    prepare()
    paths = sorted(addresses(site))
    for path in paths:
        Path(f"data/few/images{path}").unlink()
    for folder, part in (("my coco/images", paths[:10]), ("data/coco", paths[10:20])):
        for path in part:
            file = Path(f"{folder}{path}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(site.bodies[path])
    Path(f"my coco/images{paths[0]}").write_bytes(b"")
    site.asked.clear()
    assert "11 fetched, 19 linked" in prepare(Path("my coco"))["data/few/images"].text
    assert set(images_asked(site)) == {paths[0], *paths[20:]}
    assert Path(f"data/few/images{paths[1]}").resolve() == Path(f"my coco/images{paths[1]}").resolve()
    Path(f"my coco/images{paths[1]}").unlink()
    assert "1 fetched, 29 there" in prepare()["data/few/images"].text


def test_where_every_image_fails_few_are_tried(site: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "HOPELESS", 10)
    site.faults = {path: ["503"] * 10 for path in site.bodies if path.endswith(".jpg")}
    text = prepare()["data/few/images"].text
    assert "30 of 30 missing" in text
    assert 10 <= len(images_asked(site)) < 10 + photographs.CONNECTIONS


def test_without_a_network_the_list_says_what_is_missing(site: Files) -> None:
    prepare()
    for path in addresses(site):
        Path(f"data/few/images{path}").unlink()
    for split in SPLITS:
        file = Path(f"data/few/{split}.json")
        file.write_text(file.read_text().replace(site.url, "http://127.0.0.1:9"))
    record = json.loads(Path("data/few/drawn.json").read_text())
    record["sha256"] = {
        name: hashlib.sha256(Path(f"data/{name}").read_bytes()).hexdigest() for name in record["sha256"]
    }
    Path("data/few/drawn.json").write_text(json.dumps(record))
    done = prepare()
    text = done["data/few/images"].text
    assert "30 of 30 missing" in text
    assert "Connection refused" in text
    assert "--coco" in text


def test_without_the_annotations_nothing_is_drawn(site: Files) -> None:
    site.bodies.clear()
    done = prepare()
    assert not any(item.ready for item in done.values())
    assert f"{site.url}/all_train.json.zip" in done["data/all/all_train.json"].text
    assert "drawn from the annotations of All" in done["data/few/train.json"].text
    assert images_asked(site) == {}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_is_continued(site: Files, number: signal.Signals) -> None:
    """Only files that were being downloaded are downloaded twice."""
    site.pause = 0.1
    command = [sys.executable, "-m", "benchmark.cli", "data", "prepare", "few.yaml"]
    environment = {name: value for name, value in os.environ.items() if name != "LONGTAIL_DATA"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(images_asked(site)) < 12:
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (-number if number is signal.SIGKILL else 3)
    there = images_there()
    assert 0 < len(there) < 30
    for path in there & set(site.bodies):
        if not path.startswith("/.fetching"):
            assert Path(f"data/few/images{path}").read_bytes() == site.bodies[path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert images_there() == addresses(site)
    assert images_asked(site).total() <= 30 + photographs.CONNECTIONS


def test_a_subset_of_own_files_needs_no_address(generated: Path, tmp_path: Path, monkeypatch) -> None:
    places = {split: {"annotations": f"{split}.json", "images": "images"} for split in SPLITS}
    whole = {"name": "all", "title": "All", "categories": 8, **places}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(whole))
    write_subset(tmp_path)
    (tmp_path / "data").symlink_to(generated)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "benchmark.datasets.photographs._download", lambda *_: pytest.fail("something was fetched")
    )
    assert "30 linked" in prepare()["data/few/images"].text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"of": "lvis_v2"}, "did you mean 'lvis_v1'"),
        ({"of": "few"}, "cannot be a subset of itself"),
        ({"of": "synthetic"}, "which is generated"),
        ({"categories": 4}, "as many categories as it keeps"),
        ({"vall_images": 3}, "unknown key 'vall_images'"),
    ],
)
def test_a_definition_that_cannot_be_drawn_is_refused(site: Files, changes, message: str) -> None:
    write_subset(Path(), **changes)
    with pytest.raises(Exception, match=message):
        few_dataset()


@pytest.mark.parametrize(
    ("name", "images"), [("lvis_v1_tiny", 400), ("lvis_v0.5_tiny", 400), ("lvis_v1_mini", 6200)]
)
def test_the_projects_subsets_have_room_for_every_category(name: str, images: int) -> None:
    """One image per category is enough, wherever the rare categories are."""
    model = load_dataset(name)
    assert model.whole is not None
    assert model.subset.train_images + model.subset.val_images == images
    assert model.categories == (model.subset.categories or model.whole.categories)
    assert model.subset.train_images >= model.categories
    assert model.subset.val_images >= min(model.categories, 1035)  # of LVIS v1, those that its validation has
