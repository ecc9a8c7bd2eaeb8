"""Impossible combinations of detector settings are refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from benchmark.recipes.detector_settings import DetectorSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "mask_rcnn", "backbone": "resnet18", "deformable": True}, "no deformable form"),
        ({"architecture": "htc", "backbone": "resnet50", "mask_channels": 64}, "must be fpn_channels"),
        (
            {"architecture": "mask_rcnn", "backbone": "resnet50", "semantic_branch": True},
            "no semantic branch",
        ),
    ],
)
def test_impossible_detectors_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DetectorSettings(**settings)


def test_cascades_have_three_heads_and_some_detectors_segment() -> None:
    found = {
        name: (
            DetectorSettings(architecture=name, backbone="resnet50").box_head_count,
            DetectorSettings(architecture=name, backbone="resnet50").masks,
        )
        for name in ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "htc")
    }
    assert found == {
        "faster_rcnn": (1, False),
        "mask_rcnn": (1, True),
        "cascade_rcnn": (3, False),
        "cascade_mask_rcnn": (3, True),
        "htc": (3, True),
    }
