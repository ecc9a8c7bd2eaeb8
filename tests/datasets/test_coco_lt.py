"""COCO-LT has the published counts, depends only on the seed, and is drawn only if the authors' file is
missing."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden_cases import golden_cases
from helpers import statistics_of

from benchmark.annotations import check_annotations
from benchmark.annotations.vocabulary import KNOWN
from benchmark.datasets import DatasetError, prepare_dataset
from benchmark.datasets.coco_lt import rebuild_coco_lt
from benchmark.recipes import load_dataset
from benchmark.recipes.project import project_root
from benchmark.statistics import ClassStatistics, class_statistics

COUNTS = project_root() / "workflows" / "datasets" / "coco_lt_counts.csv"
WANTED = [30, 7, 0]


def write_coco(path: Path, present: list[int]) -> dict:
    """One annotation of category c in every image until there are as many as ``present`` states."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "info": {"year": 2017, "description": "COCO"},
        "licenses": [{"id": 1}],
        "images": [{"id": i, "width": 9, "height": 9, "file_name": f"{i}.jpg"} for i in range(1, 41)],
        "annotations": [
            {"image_id": 1 + i % 40, "category_id": c, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": i % 2}
            for c, number in enumerate(present, start=1)
            for i in range(number)
        ],
        "categories": [{"id": c, "name": f"category_{c}"} for c in range(1, len(present) + 1)],
    }
    for id_, item in enumerate(content["annotations"], start=1):
        item["id"] = id_
    path.write_text(json.dumps(content))
    return content


def rebuilt(tmp_path: Path, seed: int, present: list[int]) -> dict:
    write_coco(tmp_path / "coco.json", present)
    rebuild_coco_lt(tmp_path / "coco.json", statistics_of(WANTED), tmp_path / "out.json", seed)
    return json.loads((tmp_path / "out.json").read_text())


def test_every_category_has_its_count_and_nothing_else_changes(tmp_path):
    content = rebuilt(tmp_path, 0, [30, 60, 5])
    source = json.loads((tmp_path / "coco.json").read_text())
    assert class_statistics(tmp_path / "out.json").instance_counts.tolist() == WANTED
    assert [item for item in content["annotations"] if item["category_id"] == 1] == source["annotations"][:30]
    assert all(item in source["annotations"] for item in content["annotations"])
    ids = [item["id"] for item in content["annotations"]]
    assert ids == sorted(set(ids))
    assert {item["id"] for item in content["images"]} == {item["image_id"] for item in content["annotations"]}
    assert all(item in source["images"] for item in content["images"])
    assert content["categories"] == source["categories"]
    assert content["licenses"] == source["licenses"]
    assert "seed 0" in content["info"]["description"]
    assert content["info"]["year"] == 2017
    assert check_annotations(tmp_path / "out.json") == []


def test_the_draw_is_the_seeds_and_one_category_does_not_move_another(tmp_path):
    def of(category: int, content: dict) -> list[int]:
        return [item["image_id"] for item in content["annotations"] if item["category_id"] == category]

    first = rebuilt(tmp_path, 0, [30, 60, 5])
    assert rebuilt(tmp_path, 0, [30, 60, 5]) == first
    assert of(2, rebuilt(tmp_path, 1, [30, 60, 5])) != of(2, first)
    assert of(2, rebuilt(tmp_path, 0, [90, 60, 5])) == of(2, first)


def test_the_draw_is_uniform(tmp_path):
    """Each of 60 annotations is drawn in 7 of 60 draws on average; the bound fails once in 10^6 per
    annotation."""
    write_coco(tmp_path / "coco.json", [30, 60, 5])
    drawn = np.zeros(60)
    for seed in range(300):
        rebuild_coco_lt(tmp_path / "coco.json", statistics_of(WANTED), tmp_path / "out.json", seed)
        content = json.loads((tmp_path / "out.json").read_text())
        drawn[[item["id"] - 31 for item in content["annotations"] if item["category_id"] == 2]] += 1
    assert drawn.sum() == 300 * 7
    assert np.abs(drawn - 35).max() < 5 * np.sqrt(35 * 53 / 60)


def test_a_source_that_is_not_cocos_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"5 of category_2(.|\n)*at least 7"):
        rebuilt(tmp_path, 0, [30, 5, 5])
    with pytest.raises(DatasetError, match="different categories"):
        rebuilt(tmp_path, 0, [30, 60])
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("case", golden_cases("simcal", "real_counts"))
def test_the_projects_counts_are_the_published_ones(case):
    published = case["expected"]
    table = ClassStatistics.read(COUNTS)
    assert table.instance_counts.tolist() == published["coco_lt_instances"]
    assert table.image_counts.tolist() == published["coco_lt_images"]
    assert KNOWN[table.as_vocabulary("counts").digest] == "COCO (80 categories)"
    (file,) = [file for file in load_dataset("coco_lt").files if file.subsample]
    assert file.annotations == published["coco_lt_total_instances"] == table.instance_counts.sum()


def test_the_dataset_is_rebuilt_from_coco_and_the_authors_own_file_comes_first(tmp_path):
    model = load_dataset("coco_lt")
    model = model.model_copy(update={"files": [file for file in model.files if file.subsample]})
    (missing,) = prepare_dataset(model, tmp_path, None, print)
    assert not missing.ready
    assert "train_coco2017_LT_sampled.json" in missing.text
    assert "instances_train2017.json" in missing.text
    table = ClassStatistics.read(COUNTS)
    names = dict(zip(table.category_ids.tolist(), table.names, strict=True))
    content = {
        "images": [{"id": 1}],
        "annotations": [
            {"id": 0, "image_id": 1, "category_id": id_}
            for id_, count in zip(names, table.instance_counts.tolist(), strict=True)
            for _ in range(count + 1)
        ],
        "categories": [{"id": id_, "name": name} for id_, name in names.items()],
    }
    source = tmp_path / "coco/annotations/instances_train2017.json"
    source.parent.mkdir(parents=True)
    source.write_text(json.dumps(content))
    (done,) = prepare_dataset(model, tmp_path, None, print)
    assert done.ready
    assert class_statistics(done.path).instance_counts.tolist() == table.instance_counts.tolist()
    official = tmp_path / "coco_lt/train_coco2017_LT_sampled.json"
    done.path.rename(official)
    (done,) = prepare_dataset(model, tmp_path, None, print)
    assert done.path.resolve() == official
