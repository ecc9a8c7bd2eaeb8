"""The registry of metrics: the one place that names, explains and formats them."""

from dataclasses import dataclass
from typing import Literal

PROTOCOL_DETECTIONS = 300
"""Detections kept in an image by the LVIS protocol; the metrics' keys hold this number."""


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation, stored as a fraction and shown in percent."""

    key: str
    title: str
    meaning: str
    kind: Literal["precision", "recall"]
    iou: float | None = None
    area: Literal["all", "small", "medium", "large"] = "all"
    frequency: Literal["r", "c", "f"] | None = None
    higher_is_better: bool = True
    unit: str = "%"
    scale: float = 100.0
    digits: int = 1

    def format(self, value: float | None) -> str:
        """The stored ``value`` as it is shown, without the unit; empty where it is not defined."""
        return "" if value is None else f"{value * self.scale:.{self.digits}f}"

    def key_for(self, max_detections: int) -> str:
        """The key when another number of detections than the protocol's 300 was kept in an image."""
        return self.key.replace(f"@{PROTOCOL_DETECTIONS}", f"@{max_detections}")


_METRICS = (
    Metric("AP", "AP", "mean over categories and IoU 0.50:0.95", "precision"),
    Metric("AP50", "AP50", "at IoU 0.50", "precision", iou=0.5),
    Metric("AP75", "AP75", "at IoU 0.75", "precision", iou=0.75),
    Metric("APs", "APs", "objects below 32² pixels", "precision", area="small"),
    Metric("APm", "APm", "objects of 32² to 96² pixels", "precision", area="medium"),
    Metric("APl", "APl", "objects above 96² pixels", "precision", area="large"),
    Metric("APr", "APr", "rare categories (1-10 training images)", "precision", frequency="r"),
    Metric("APc", "APc", "common categories (11-100 training images)", "precision", frequency="c"),
    Metric("APf", "APf", "frequent categories (over 100 training images)", "precision", frequency="f"),
    Metric("AR@300", "AR", "mean recall over categories and IoU 0.50:0.95", "recall"),
    Metric("ARs@300", "ARs", "recall, objects below 32² pixels", "recall", area="small"),
    Metric("ARm@300", "ARm", "recall, objects of 32² to 96² pixels", "recall", area="medium"),
    Metric("ARl@300", "ARl", "recall, objects above 96² pixels", "recall", area="large"),
)
METRICS: dict[str, Metric] = {metric.key: metric for metric in _METRICS}
"""The 13 LVIS numbers by key, in the order in which they are shown."""
