"""Random initial weights of everything but the backbone, the same for all back ends. Backbones keep those of
their framework, which are Kaiming normal in all three."""

from collections.abc import Iterable

from torch import nn

from benchmark.classifiers import NormedConv2d
from benchmark.recipes.detector_settings import DetectorSettings as Settings

PREDICTOR_STD = 0.001  # of the last layers for boxes and masks
PROPOSAL_STD = 0.01


def convolutions(*modules: nn.Module) -> list[nn.Module]:
    """All convolutions in modules, including transposed ones."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return [layer for module in modules for layer in module.modules() if isinstance(layer, kinds)]


def initialise_pyramid(layers: Iterable[nn.Module], settings: Settings) -> None:
    """Convolutions of a feature pyramid."""
    for layer in layers:
        _uniform(layer, settings.fpn_init)


def initialise_proposal_head(layers: Iterable[nn.Module]) -> None:
    """N(0, 0.01) in all frameworks."""
    for layer in layers:
        _normal(layer, PROPOSAL_STD)


def initialise_box_head(layers: Iterable[nn.Linear], regressor: nn.Linear, settings: Settings) -> None:
    """The two fully connected layers, and the box regressor."""
    for layer in layers:
        _uniform(layer, settings.box_head_init)
    if settings.box_regressor_init == "normal":
        _normal(regressor, PREDICTOR_STD)
    else:
        regressor.reset_parameters()


def initialise_mask_head(layers: Iterable[nn.Module], predictor: nn.Module, settings: Settings) -> None:
    """Initialise the convolutions and the separate last layer; one that computes cosines initialises
    itself."""
    for layer in layers:
        _kaiming(layer)
    if isinstance(predictor, NormedConv2d):
        return
    if settings.mask_predictor_init == "normal":
        _normal(predictor, PREDICTOR_STD)
    else:
        _kaiming(predictor)


def _uniform(layer: nn.Module, how: str) -> None:
    """Uniform: PyTorch's default, for the bias too; Xavier's, up to sqrt(6 / (in + out)); Caffe2's, up to
    sqrt(3 / in)."""
    if how == "uniform":
        layer.reset_parameters()  # type: ignore[operator]
        return
    if how == "xavier":
        nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
    else:
        nn.init.kaiming_uniform_(layer.weight, a=1)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _normal(layer: nn.Module, std: float) -> None:
    nn.init.normal_(layer.weight, std=std)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _kaiming(layer: nn.Module) -> None:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
