"""What ``python -m tests.agreement`` tabulates, for the published rows' detectors made narrow."""

import pytest
from agreement.comparison import cases, compare, installed

EDGES = (96, 128)


@pytest.mark.skipif(len(installed()) < 2, reason="one back end is installed")
def test_back_ends_agree() -> None:
    """Losses, gradients, RoIs and detections, as far as float32 goes. Only MMDetection has HTC."""
    for case in cases("tiny"):
        differences, refused = compare(case, EDGES)
        if case.settings.semantic_branch:
            assert set(refused) == set(installed()) - {"mmdet"}
        else:
            assert not refused, case.title
            assert differences, case.title
        for found in differences.values():
            assert found.within(1e-4, 1e-2), (case.title, found)
            assert found.detections > 50, case.title
