"""The registry of metrics: their names, meanings and formats."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

PROTOCOL_DETECTIONS = {"lvis": 300, "coco": 100}
"""Number of detections that the protocol keeps, highest scores first; ``CAP_WORDS`` has the unit."""

CAP_WORDS = {"lvis": "an image", "coco": "of a category in an image"}
"""The unit to which the cap of each protocol applies."""

Caps = Mapping[str, int]
"""Caps by protocol that replace the protocol's own; a cap of 300 per image does not apply to COCO."""

Bin = tuple[int, int | None]
"""Training instances from the first number to before the second; None for no limit."""

COUNT_BINS: tuple[Bin, ...] = ((0, 10), (10, 100), (100, 1000), (1000, None))
"""SimCal's bins for LVIS; their mean is bAP."""

COCO_LT_BINS: tuple[Bin, ...] = ((1, 20), (20, 400), (400, 8000), (8000, None))
"""SimCal's bins for COCO-LT; their mean is eAP."""


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation, stored as a fraction and shown in percent.

    ``precision`` and ``recall`` are means over the selection by ``iou``, ``area``, ``frequency`` and ``bin``,
    with the detections of AP-fixed if ``fixed``, and at the cap ``max_detections`` if it is not that of the
    protocol; ``mean`` is the mean of the metrics ``of``; the engine computes ``calibration`` and ``error``.
    """

    key: str
    title: str
    meaning: str
    kind: Literal["precision", "recall", "mean", "calibration", "error"]
    iou: float | None = None
    area: Literal["all", "small", "medium", "large"] = "all"
    frequency: Literal["r", "c", "f"] | None = None
    bin: Bin | None = None
    of: tuple[str, ...] = ()
    fixed: bool = False
    max_detections: int | None = None
    higher_is_better: bool = True
    unit: str = "%"
    scale: float = 100.0
    digits: int = 1

    def format(self, value: float | None) -> str:
        """The stored ``value`` as text without unit; empty if it is not defined."""
        return "" if value is None else f"{value * self.scale:.{self.digits}f}"


_PRECISION = (
    Metric("AP", "AP", "mean over categories and IoU 0.50:0.95", "precision"),
    Metric("AP50", "AP50", "at IoU 0.50", "precision", iou=0.5),
    Metric("AP75", "AP75", "at IoU 0.75", "precision", iou=0.75),
    Metric("APs", "APs", "objects below 32² pixels", "precision", area="small"),
    Metric("APm", "APm", "objects of 32² to 96² pixels", "precision", area="medium"),
    Metric("APl", "APl", "objects above 96² pixels", "precision", area="large"),
)
_FREQUENCY = (
    Metric("APr", "APr", "rare categories (1-10 training images)", "precision", frequency="r"),
    Metric("APc", "APc", "common categories (11-100 training images)", "precision", frequency="c"),
    Metric("APf", "APf", "frequent categories (over 100 training images)", "precision", frequency="f"),
)
_FIXED = tuple(
    replace(
        metric,
        key=f"{metric.key}-fixed",
        title=f"{metric.title}-fixed",
        meaning=f"{meaning}: the 10,000 best detections of each, no limit in an image",
        fixed=True,
    )
    for metric, meaning in zip(
        (_PRECISION[0], *_FREQUENCY),
        ("all categories", "rare categories", "common categories", "frequent categories"),
        strict=True,
    )
)
_OTHER = (
    Metric(
        "ECE",
        "ECE",
        "expected calibration error of the scores, IoU 0.50, 10 bins",
        "calibration",
        higher_is_better=False,
    ),
    *(
        Metric(
            f"dAP-{kind}",
            f"dAP {kind}",
            f"AP50 lost to {meaning} (TIDE)",
            "error",
            higher_is_better=False,
        )
        for kind, meaning in (
            ("Cls", "wrong categories"),
            ("Loc", "wrong places"),
            ("Both", "wrong category and place"),
            ("Dupe", "duplicates"),
            ("Bkg", "background"),
            ("Miss", "missed objects"),
        )
    ),
)


def _binned() -> Iterator[Metric]:
    for mean, meaning, bins in (
        ("bAP", "mean of SimCal's four bins", COUNT_BINS),
        ("eAP", "mean of the four COCO-LT bins", COCO_LT_BINS),
    ):
        keys = []
        for low, high in bins:
            key = f"AP[{low},{'inf' if high is None else high})"
            words = f"from {low:,}" if high is None else f"{low:,} to {high - 1:,}"
            keys.append(key)
            yield Metric(
                key, key, f"categories with {words} training instances", "precision", bin=(low, high)
            )
        yield Metric(mean, mean, meaning, "mean", of=tuple(keys))


def _recall(protocol: str, max_detections: int) -> Iterator[Metric]:
    """Recall metrics. Their keys contain the number of detections, so that they differ between protocols."""
    lower = [cap for cap in (1, 10) if cap < max_detections] if protocol == "coco" else []
    for cap in (*lower, max_detections):
        yield Metric(
            f"AR@{cap}",
            "AR" if cap == max_detections else f"AR@{cap}",
            "mean recall over categories and IoU 0.50:0.95",
            "recall",
            max_detections=cap,
        )
    areas: tuple[tuple[str, Literal["small", "medium", "large"], str], ...] = (
        ("s", "small", "below 32² pixels"),
        ("m", "medium", "of 32² to 96² pixels"),
        ("l", "large", "above 96² pixels"),
    )
    for letter, area, meaning in areas:
        yield Metric(
            f"AR{letter}@{max_detections}",
            f"AR{letter}",
            f"recall, objects {meaning}",
            "recall",
            area=area,
            max_detections=max_detections,
        )


def metrics_of(protocol: str, max_detections: int) -> dict[str, Metric]:
    """Every metric of a protocol by key, in display order, the protocol's own first.

    ``max_detections`` is the highest number of detections kept.
    """
    own = (*_PRECISION, *_FREQUENCY, *_recall(protocol, max_detections))
    return {metric.key: metric for metric in (*own, *_FIXED, *_binned(), *_OTHER)}


LVIS_KEYS = (
    *(metric.key for metric in (*_PRECISION, *_FREQUENCY)),
    *(metric.key for metric in _recall("lvis", PROTOCOL_DETECTIONS["lvis"])),
)
"""The 13 LVIS numbers."""

METRICS: dict[str, Metric] = {
    key: metric
    for protocol, number in PROTOCOL_DETECTIONS.items()
    for key, metric in metrics_of(protocol, number).items()
}
"""Every metric at its protocol's number of detections, by key."""
