"""How the frameworks and the papers' releases name and order the weights of a two-stage detector.

Names are those of the releases' modules; the order of classes, coordinates and input follow from the
framework:

========== ===================================== =============== ============ ==========
layout     framework                             background      coordinates  input
========== ===================================== =============== ============ ==========
mmdet_v1   mmdetection 1 (BAGS, SimCal)          first           mmdet_v1     RGB, mean and std
mmdet      mmdetection from 2 on (GOL)           last            aligned      RGB, mean and std
detectron2 detectron2 (BALMS)                    last, or none   aligned      told by pixel_mean, pixel_std
torchvision torchvision                          first           torchvision  RGB, mean and std
========== ===================================== =============== ============ ==========

If background comes first, class-specific box regressors and mask predictors also have rows for background,
which are never used. All four flatten RoIs as (channels, 7, 7), order anchors by the ratios 0.5, 1, 2 and box
deltas as x, y, width, height, category by category.

Coordinates and input are stored with the weights (``checkpoints.CONVENTIONS``): every back end uses the
anchors, RoI samples, clipping, overlap and rescaling of boxes of their framework.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from benchmark.detectors.checkpoints import is_classifier, is_counter
from benchmark.detectors.interface import Detector
from benchmark.recipes.detector_settings import DetectorSettings

Coordinates = Literal["torchvision", "mmdet_v1", "aligned"]


@dataclass(frozen=True)
class Layout:
    """One way to name and order weights.

    ``names`` maps regular expressions for the beginnings of our names to the names of the layout; the first
    match counts. Its keys are our back ends, and the same followed by ``cascade``, in which the names of
    classifiers have the number of the head. ``harmless`` are tensors of the layout that inference does not
    need.
    """

    title: str
    names: Mapping[str, Mapping[str, str]]
    background_first: bool
    coordinates: Coordinates
    harmless: tuple[str, ...] = (r"\.num_batches_tracked$",)
    renamed: Mapping[str, str] = field(default_factory=dict)

    def theirs(self, name: str, naming: str) -> str | None:
        """The layout's name of one of our tensors; None if it has none."""
        for pattern, replacement in self.names.get(naming, {}).items():
            found, changes = re.subn(f"^{pattern}", replacement, name)
            if changes:
                return found
        return None

    def current(self, name: str) -> str:
        """The name that ``names`` expects, from one of another version of the framework."""
        for pattern, replacement in self.renamed.items():
            name = re.sub(pattern, replacement, name)
        return name

    def is_harmless(self, name: str) -> bool:
        """Whether a tensor of the layout may be ignored."""
        return any(re.search(pattern, name) for pattern in self.harmless)


# Beginnings of our names, in all back ends; a number is that of a cascade's head
REGRESSOR = re.compile(
    r"roi_heads\.box_regressor\.|roi_head\.bbox_head\.(\d\.)?fc_reg\."
    r"|roi_heads\.box_predictor\.(\d\.)?bbox_pred\."
)
MASK = re.compile(
    r"roi_heads\.mask_predictor\.(\d\.)?mask_fcn_logits\.|roi_head\.mask_head\.(\d\.)?conv_logits\."
    r"|roi_heads\.mask_head\.(\d\.)?predictor\."
)


def is_by_class(name: str, settings: DetectorSettings) -> bool:
    """Whether one of our tensors has rows for every category."""
    if REGRESSOR.match(name):
        return not settings.class_agnostic_boxes
    if MASK.match(name):
        return not settings.class_agnostic_masks
    return is_classifier(name)


def naming_of(detector: Detector) -> str:
    """Key of ``Layout.names``."""
    return f"{detector.backend} cascade" if detector.settings.box_head_count > 1 else detector.backend


def fitting(layout: Layout, detector: Detector, weights: Mapping[str, Tensor]) -> int:
    """How many tensors of the detector have a counterpart in the layout."""
    given, naming = {layout.current(name) for name in weights}, naming_of(detector)
    return sum(layout.theirs(name, naming) in given for name in detector.state_dict() if not is_counter(name))


def trunk_name(name: str) -> str | None:
    """torchvision's name of a ResNet's tensor from that of any framework, also in a detector; else None."""
    found = re.sub(r"^backbone\.(body\.|bottom_up\.)?", "", name)
    found = found.removeprefix("stem.")
    found = re.sub(r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", found)
    found = found.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    found = re.sub(r"conv(\d)\.norm\.", r"bn\1.", found)
    return found if re.match(r"(conv1|bn1|layer\d)\.", found) else None


# the number of a cascade's head in our names and theirs
_HEAD = r"((?:\d\.)?)"


def _mmdet(roi_head: str) -> dict[str, str]:
    box, mask = rf"{roi_head}bbox_head.\1", rf"{roi_head}mask_head.\1"
    return {
        r"backbone\.body\.": "backbone.",
        r"backbone\.fpn\.inner_blocks\.(\d)\.0\.": r"neck.lateral_convs.\1.conv.",
        r"backbone\.fpn\.layer_blocks\.(\d)\.0\.": r"neck.fpn_convs.\1.conv.",
        r"rpn\.head\.conv\.0\.0\.": "rpn_head.rpn_conv.",
        r"rpn\.head\.cls_logits\.": "rpn_head.rpn_cls.",
        r"rpn\.head\.bbox_pred\.": "rpn_head.rpn_reg.",
        rf"roi_heads\.box_head\.{_HEAD}fc6\.": f"{box}shared_fcs.0.",
        rf"roi_heads\.box_head\.{_HEAD}fc7\.": f"{box}shared_fcs.1.",
        rf"roi_heads\.box_regressor\.{_HEAD}(?=weight|bias)": f"{box}fc_reg.",
        rf"roi_heads\.mask_head\.{_HEAD}(\d)\.0\.": rf"{mask}convs.\2.conv.",
        rf"roi_heads\.mask_predictor\.{_HEAD}conv5_mask\.": f"{mask}upsample.",
        rf"roi_heads\.mask_predictor\.{_HEAD}mask_fcn_logits\.": f"{mask}conv_logits.",
    }


_SIMCAL_HEADS = {
    r"classifiers\.0\.calibrated\.0\.": "feat_classifier.fc1.",
    r"classifiers\.0\.calibrated\.2\.": "feat_classifier.fc2.",
    r"classifiers\.0\.calibrated\.4\.": "feat_classifier.fc_classifier.",
}
# one file for each box head; importing puts the number of the head before its names
_SIMCAL_CASCADE = {
    name.replace(".0", r".(\d)", 1): rf"head\1.{theirs}" for name, theirs in _SIMCAL_HEADS.items()
}
# a head with two layers, whose names are mapped to those of the head with three
_SIMCAL_2FC = {r"^(head\d\.)?feat_extractor\.fc": r"\1feat_classifier.fc"}
# mmdetection 1, before deformable convolutions held the layer of their offsets
_OFFSETS = {r"\.conv2_offset\.": ".conv2.conv_offset."}


def _of_mmdet(roi_head: str, simcal: bool = False) -> dict[str, Mapping[str, str]]:
    """Names by back end; in the back end mmdet only classifiers have our names."""
    ours = _mmdet(roi_head)
    same = {r"(backbone|neck|rpn_head)\.": r"\1.", r"roi_head\.": roi_head}
    one = {r"classifiers\.0\.linear\.": f"{roi_head}bbox_head.fc_cls."} | (_SIMCAL_HEADS if simcal else {})
    cascade = {r"classifiers\.(\d)\.linear\.": rf"{roi_head}bbox_head.\1.fc_cls."}
    cascade |= _SIMCAL_CASCADE if simcal else {}
    return {
        "torchvision": ours | one,
        "torchvision cascade": ours | cascade,
        "mmdet": same | one,
        "mmdet cascade": same | cascade,
    }


def _detectron2() -> dict[str, str]:
    names = {
        r"backbone\.body\.conv1\.": "backbone.bottom_up.stem.conv1.",
        r"backbone\.body\.bn1\.": "backbone.bottom_up.stem.conv1.norm.",
    }
    for layer in range(1, 5):
        block, theirs = rf"backbone\.body\.layer{layer}\.(\d+)\.", rf"backbone.bottom_up.res{layer + 1}.\1."
        names |= {
            rf"{block}conv(\d)\.": rf"{theirs}conv\2.",
            rf"{block}bn(\d)\.": rf"{theirs}conv\2.norm.",
            rf"{block}downsample\.0\.": f"{theirs}shortcut.",
            rf"{block}downsample\.1\.": f"{theirs}shortcut.norm.",
            rf"backbone\.fpn\.inner_blocks\.{layer - 1}\.0\.": f"backbone.fpn_lateral{layer + 1}.",
            rf"backbone\.fpn\.layer_blocks\.{layer - 1}\.0\.": f"backbone.fpn_output{layer + 1}.",
        }
    names |= {
        r"rpn\.head\.conv\.0\.0\.": "proposal_generator.rpn_head.conv.",
        r"rpn\.head\.cls_logits\.": "proposal_generator.rpn_head.objectness_logits.",
        r"rpn\.head\.bbox_pred\.": "proposal_generator.rpn_head.anchor_deltas.",
        rf"roi_heads\.box_head\.{_HEAD}fc6\.": r"roi_heads.box_head.\1fc1.",
        rf"roi_heads\.box_head\.{_HEAD}fc7\.": r"roi_heads.box_head.\1fc2.",
        rf"roi_heads\.box_regressor\.{_HEAD}(?=weight|bias)": r"roi_heads.box_predictor.\1bbox_pred.",
        rf"roi_heads\.mask_predictor\.{_HEAD}conv5_mask\.": r"roi_heads.mask_head.\1deconv.",
        rf"roi_heads\.mask_predictor\.{_HEAD}mask_fcn_logits\.": r"roi_heads.mask_head.\1predictor.",
    }
    for layer in range(8):
        theirs = rf"roi_heads.mask_head.\1mask_fcn{layer + 1}."
        names[rf"roi_heads\.mask_head\.{_HEAD}{layer}\.0\."] = theirs
    return names


def _of_detectron2() -> dict[str, Mapping[str, str]]:
    """Names by back end; in the back end detectron2 only classifiers have our names."""
    ours, same = _detectron2(), {r"(backbone|proposal_generator|roi_heads)\.": r"\1."}
    one = {
        r"classifiers\.0\.linear\.": "roi_heads.box_predictor.cls_score.",
        # BALMS' Learner
        r"classifiers\.0\.reweighter$": "roi_heads.box_predictor.learner.fc.0.weight",
    }
    cascade = {r"classifiers\.(\d)\.linear\.": r"roi_heads.box_predictor.\1.cls_score."}
    return {
        "torchvision": ours | one,
        "torchvision cascade": ours | cascade,
        "detectron2": same | one,
        "detectron2 cascade": same | cascade,
    }


_TORCHVISION = {
    r"(backbone|rpn)\.": r"\1.",
    r"roi_heads\.box_regressor\.": "roi_heads.box_predictor.bbox_pred.",
    r"(roi_heads\.(box_head|mask_head|mask_predictor))\.": r"\1.",
    r"classifiers\.0\.linear\.": "roi_heads.box_predictor.cls_score.",
}
# files made before torchvision had blocks of convolution and norm, such as its published COCO models
TORCHVISION_RENAMED = {
    r"^(rpn\.head\.conv)\.(weight|bias)$": r"\1.0.0.\2",
    r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$": r"\1.0.\2",
    r"^roi_heads\.mask_head\.mask_fcn1\.": "roi_heads.mask_head.0.0.",
    r"^roi_heads\.mask_head\.mask_fcn2\.": "roi_heads.mask_head.1.0.",
    r"^roi_heads\.mask_head\.mask_fcn3\.": "roi_heads.mask_head.2.0.",
    r"^roi_heads\.mask_head\.mask_fcn4\.": "roi_heads.mask_head.3.0.",
}

# every mask head of an HTC had a convolution for the features of the head before, even the first one
_UNUSED_IN_HTC = r"^(roi_head\.)?mask_head\.0\.conv_res\."
MMDET_V1 = Layout(
    "mmdetection 1",
    _of_mmdet("", simcal=True),
    background_first=True,
    coordinates="mmdet_v1",
    harmless=(r"\.num_batches_tracked$", _UNUSED_IN_HTC),
    renamed=_SIMCAL_2FC | _OFFSETS,
)
MMDET = Layout(
    "mmdetection 2 or 3",
    _of_mmdet("roi_head."),
    background_first=False,
    coordinates="aligned",
    harmless=(r"\.num_batches_tracked$", _UNUSED_IN_HTC),
)
DETECTRON2 = Layout(
    "detectron2",
    _of_detectron2(),
    background_first=False,
    coordinates="aligned",
    harmless=(
        r"\.num_batches_tracked$",
        r"^proposal_generator\.anchor_generator\.cell_anchors\.",
        r"^pixel_(mean|std)$",
    ),
    # BALMS' Learner under data parallelism
    renamed={r"\.learner\.module\.": ".learner."},
)
TORCHVISION = Layout(
    "torchvision",
    {"torchvision": _TORCHVISION},
    background_first=True,
    coordinates="torchvision",
    renamed=TORCHVISION_RENAMED,
)

LAYOUTS = (TORCHVISION, MMDET, MMDET_V1, DETECTRON2)
SOURCES: dict[str, tuple[Layout, ...]] = {
    "balms": (DETECTRON2,),
    "bags": (MMDET_V1,),
    "simcal": (MMDET_V1,),
    "gol": (MMDET,),
    "mmdet": (MMDET, MMDET_V1),
    "detectron2": (DETECTRON2,),
    "torchvision": (TORCHVISION,),
}
"""The possible layouts of each source; of several, the one that shares more names with the file is used."""
