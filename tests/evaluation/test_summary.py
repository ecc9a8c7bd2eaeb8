"""AP by training instances equals that of SimCal."""

from typing import Any

import numpy as np
import pytest
from golden_cases import golden_cases, tolerance

from benchmark.evaluation.metrics import COCO_LT_BINS, COUNT_BINS, METRICS, Bin
from benchmark.evaluation.summary import bin_mean, in_bin, mean_of
from benchmark.recipes.project import project_root
from benchmark.statistics import ClassStatistics

COCO_LT = project_root() / "workflows" / "datasets" / "coco_lt_counts.csv"
WITH_BUGS = ("upstream", "intended", "upstream_bug")


def bins_of(edges: list[int]) -> list[Bin]:
    return list(zip([0, *edges], [*edges, None], strict=True))


@pytest.mark.parametrize("case", golden_cases("simcal", "bin_ap", WITH_BUGS))
def test_golden_bins(case: dict[str, Any]) -> None:
    """If a bin is empty, the golden mean is undefined; the method's description, and ours, omit the bin."""
    ap, counts = (np.array(case["inputs"][key]) for key in ("ap_per_category", "train_instance_counts"))
    expected, bins = case["expected"], bins_of(case["hyperparameters"]["edges"])
    found = [bin_mean(ap, counts, limits) for limits in bins]
    assert [int(in_bin(counts, limits).sum()) for limits in bins] == expected["bin_sizes_intended"]
    np.testing.assert_allclose(
        np.array(found, float), np.array(expected["bin_ap_intended"], float), **tolerance("simcal")
    )
    defined = [value for value in found if value is not None]
    if len(defined) == len(found):
        assert np.mean(defined) == pytest.approx(expected["bap_intended"], rel=1e-9)
    else:
        assert expected["bap_intended"] is None


@pytest.mark.parametrize("case", golden_cases("simcal", "coco_lt_eap", ("derived",)))
def test_golden_coco_lt(case: dict[str, Any]) -> None:
    counts = ClassStatistics.read(COCO_LT).instance_counts
    ap = np.array(case["inputs"]["ap_per_category"])
    found = [bin_mean(ap, counts, limits) for limits in COCO_LT_BINS]
    assert [int(in_bin(counts, limits).sum()) for limits in COCO_LT_BINS] == case["expected"]["bin_sizes"]
    np.testing.assert_allclose(np.array(found, float), case["expected"]["bin_ap"], **tolerance("simcal"))
    numbers = dict(zip(METRICS["eAP"].of, found, strict=True))
    assert mean_of(METRICS["eAP"], numbers) == pytest.approx(case["expected"]["eap"], rel=1e-9)


@pytest.mark.parametrize("case", golden_cases("simcal", "coco_lt_eap_readme", ("readme",)))
def test_published_eap_is_the_mean_of_its_bins(case: dict[str, Any]) -> None:
    numbers = dict(zip(METRICS["eAP"].of, case["inputs"]["bin_ap"], strict=True))
    assert mean_of(METRICS["eAP"], numbers) == pytest.approx(case["expected"]["eap"], rel=1e-9)


@pytest.mark.parametrize("case", golden_cases("simcal", "lvis_bap_readme", ("readme",)))
def test_published_bap_is_the_mean_of_its_bins(case: dict[str, Any]) -> None:
    for bins, expected in zip(case["inputs"]["bin_ap"], case["expected"]["bap"], strict=True):
        numbers = dict(zip(METRICS["bAP"].of, bins, strict=True))
        assert mean_of(METRICS["bAP"], numbers) == pytest.approx(expected, rel=1e-9)


def test_an_empty_bin_is_left_out_of_the_mean() -> None:
    keys = METRICS["bAP"].of
    assert mean_of(METRICS["bAP"], dict(zip(keys, (0.2, None, 0.4, None), strict=True))) == pytest.approx(0.3)
    assert mean_of(METRICS["bAP"], dict.fromkeys(keys)) is None
    nothing = np.full(3, np.nan)
    assert [bin_mean(nothing, np.array([1, 20, 300]), limits) for limits in COUNT_BINS] == [None] * 4
