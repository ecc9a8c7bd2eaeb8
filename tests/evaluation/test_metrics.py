"""The registry lists every metric once."""

from benchmark.evaluation.metrics import COCO_LT_BINS, COUNT_BINS, LVIS_KEYS, METRICS, metrics_of


def test_the_lvis_numbers_come_first_and_have_the_official_names() -> None:
    assert tuple(metrics_of("lvis", 300))[:13] == LVIS_KEYS
    assert " ".join(LVIS_KEYS) == "AP AP50 AP75 APs APm APl APr APc APf AR@300 ARs@300 ARm@300 ARl@300"


def test_another_number_of_detections_does_not_bear_the_protocols_name() -> None:
    assert "AR@300" not in metrics_of("lvis", 100)
    assert {"AR@1", "AR@10", "AR@50"} <= metrics_of("coco", 50).keys()
    assert [key for key in metrics_of("coco", 1) if key.startswith("AR@")] == ["AR@1"]


def test_means_are_of_metrics_that_come_before_them() -> None:
    keys = list(METRICS)
    for metric in METRICS.values():
        assert all(keys.index(part) < keys.index(metric.key) for part in metric.of)
    for bins in (COUNT_BINS, COCO_LT_BINS):
        assert [high for _, high in bins[:-1]] == [low for low, _ in bins[1:]]
