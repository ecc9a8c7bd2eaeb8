"""What ``python -m tests.agreement`` tabulates, for the published rows' detectors made narrow."""

import pytest
from agreement.comparison import Case, cases, compare, installed

EDGES = (96, 128)


@pytest.mark.skipif(len(installed()) < 2, reason="one back end is installed")
@pytest.mark.parametrize("case", cases("tiny"), ids=lambda case: case.title)
def test_back_ends_agree(case: Case) -> None:
    """Losses, gradients, RoIs and detections, as far as float32 goes. Only MMDetection has HTC."""
    differences, refused = compare(case, EDGES)
    if case.settings.semantic_branch:
        assert set(refused) == set(installed()) - {"mmdet"}
    else:
        assert not refused
        assert differences
    for found in differences.values():
        assert found.within(1e-4, 1e-2), found
        assert found.detections > 50
