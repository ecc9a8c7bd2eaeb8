"""What detectors have in common that differ in their classifiers only: every other tensor, frozen."""

from torch import Tensor

from benchmark.detectors.checkpoints import is_classifier
from benchmark.detectors.interface import Detector
from benchmark.errors import BenchmarkError


class SharingError(BenchmarkError):
    """Detectors that differ in more than their classifiers cannot share a pass over the images."""


class FrozenTensors:
    """All tensors but those of the classifiers, of the first detector that is given."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def share(self, detector: Detector) -> None:
        """Let a detector have these for its own, in the memory that they have already.

        Raises ``SharingError`` where its own are others, and leaves it as it is.
        """
        own = {name: value for name, value in detector.state_dict().items() if not is_classifier(name)}
        if not self._tensors:
            self._tensors = own
            return
        differing = [
            name
            for name, value in self._tensors.items()
            if name not in own or not own[name].to(value.device).equal(value)
        ]
        if differing or len(own) != len(self._tensors):
            raise SharingError(
                "only detectors that are equal but for their classifiers can share a pass over the images",
                where=", ".join(differing[:3]),
            )
        detector.load_state_dict(self._tensors, strict=False, assign=True)
