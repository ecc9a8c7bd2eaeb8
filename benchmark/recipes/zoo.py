"""Data from model zoos: initial weights, speed and memory of trainings (``workflows/zoo.yaml``)."""

from functools import cache
from pathlib import Path

from pydantic import Field

from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.loading import parse, read_yaml
from benchmark.recipes.project import project_root, shown
from benchmark.recipes.strict import Strict


class _OfDetector(Strict):
    """An entry for all detectors with an architecture and a backbone."""

    architecture: str = Field(description="architecture of the detector")
    backbone: str = Field(description="its trunk")

    def fits(self, settings: DetectorSettings) -> bool:
        """Whether the entry applies to a detector."""
        return (self.architecture, self.backbone) == (settings.architecture, settings.backbone)


class ZooWeights(_OfDetector):
    """COCO weights in MMDetection's zoo; a name ends with the first digits of the file's SHA-256."""

    deformable: bool = Field(False, description="with deformable convolutions")
    url: str = Field(description="address")

    def fits(self, settings: DetectorSettings) -> bool:
        """Whether a detector can start from these weights."""
        return super().fits(settings) and self.deformable == settings.deformable

    @property
    def sha256(self) -> str:
        """The first eight hexadecimal digits."""
        return Path(self.url).stem.rpartition("-")[2]


class ZooRate(_OfDetector):
    """Images per second on one V100, and memory in GiB of a training with ``images`` at once."""

    train: float = Field(gt=0, description="images/s of a full training")
    predict: float = Field(gt=0, description="images/s of a prediction, one image at once")
    memory_gb: float = Field(gt=0, description="memory of a training")
    images: int = Field(gt=0, description="images at once of that training")
    source: str = Field(description="who measured it, on what")


class Retraining(Strict):
    """How much faster a retraining step of the classifier is than a full training step."""

    times: float = Field(gt=0, description="times as fast")
    source: str = Field(description="where that is measured")


class Prediction(Strict):
    """What predictions can share that differ in their classifiers."""

    shared: float = Field(ge=0, le=1, description="part of the time before the classifier")
    source: str = Field(description="where that is measured")


class Zoo(Strict):
    """The whole file."""

    weights: list[ZooWeights] = Field(description="COCO weights")
    rates: list[ZooRate] = Field(description="speed and memory by detector")
    retraining: Retraining = Field(description="speed of a retraining")
    prediction: Prediction = Field(description="what predictions share")
    gpus: dict[str, float] = Field(description="gigabytes of GPUs by name")

    def weights_of(self, settings: DetectorSettings) -> ZooWeights | None:
        """The published COCO weights of a detector, if there are any."""
        if settings.init != "coco":
            return None
        return next((item for item in self.weights if item.fits(settings)), None)

    def rate_of(self, settings: DetectorSettings) -> ZooRate | None:
        """Speed and memory of a detector, if they are known."""
        return next((item for item in self.rates if item.fits(settings)), None)


@cache
def zoo() -> Zoo:
    """The content of ``workflows/zoo.yaml``; raises ``RecipeError``."""
    path = project_root() / "workflows" / "zoo.yaml"
    return parse(Zoo, read_yaml(path), shown(path))
