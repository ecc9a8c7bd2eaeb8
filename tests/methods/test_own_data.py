"""Methods with thresholds for LVIS warn if the training data have another size."""

import dataclasses

import pytest
import yaml
from helpers import statistics_of

from benchmark.notices import data_warnings
from benchmark.recipes import find_run
from benchmark.statistics import ClassStatistics
from benchmark.training.data_fit import settings_without_effect

LVIS_LIKE = [1, 5, 9, 50, 90, 500, 900, 5000, 20_000]
SMALL = [12, 40, 45, 60, 80, 120, 250, 280, 290]
SAID = {
    "gol": ["frequency threshold 0.0011: no category is infrequent", "repeat threshold 0.001"],
    "eql": ["frequency threshold 0.0011: no category is infrequent"],
    "eql+gumbel": ["frequency threshold 0.0011: no category is infrequent"],
    "droploss": ["frequency threshold 0.0011: no category is infrequent"],
    "bags": ["no category has below 10, from 1000 training instances, so 2 of 4 groups"],
    "bags+two_groups": [],
    "simcal": ["instance_threshold 300: all 9 categories are scored by the calibrated head"],
    "simcal+t100": [],
    "simcal+calibrated_only": [],
    "tau_norm+tau_norm_select": [],
    "softmax": [],
    "softmax+rfs": ["repeat threshold 0.001: no category is repeated"],
    "softmax+finetune_tail": [],
    "balms": ["repeat threshold 0.001: no category is repeated"],
}


def run_of(tmp_path, method: str):
    path = tmp_path / "own.yaml"
    row = {
        "id": "own",
        "method": method,
        "detector": "torchvision/tiny_mask_rcnn",
        "dataset": "synthetic_tiny",
    }
    path.write_text(yaml.safe_dump({"name": "own", "title": "Own", "rows": [row]}))
    return find_run(f"{path}:own")


def on_images(counts: list[int], images: int) -> ClassStatistics:
    return dataclasses.replace(statistics_of(counts), num_images=images, num_annotated_images=images)


@pytest.mark.parametrize("method", SAID)
def test_on_few_images_what_means_nothing_is_said(tmp_path, method):
    found = settings_without_effect(run_of(tmp_path, method), on_images(SMALL, 500))
    assert len(found) == len(SAID[method])
    for text, part in zip(found, SAID[method], strict=True):
        assert part in text


@pytest.mark.parametrize("method", SAID)
def test_on_data_like_lvis_nothing_is_said(tmp_path, method):
    with data_warnings() as others:
        assert settings_without_effect(run_of(tmp_path, method), on_images(LVIS_LIKE, 100_000)) == []
    assert others == []
