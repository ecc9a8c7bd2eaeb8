"""``python -m tests.agreement``: compares the detectors of the published rows between all installed back
ends.

Prints the largest differences for every distinct detector and pair of back ends. Exit status 1 if a
difference is larger than float32 explains.
"""

import argparse
import os
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

from .comparison import cases, compare, installed

RELATIVE, PIXELS = 1e-3, 1e-2  # far above what float32 makes of another order, far below another rule
SIZES = {"tiny": (96, 128), "full": (192, 256)}


def main() -> int:
    """Compare all detectors; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="tiny, full or both")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    good = True
    print(f"back ends: {', '.join(installed())}\n")
    for size in options.sizes:
        width = "narrow heads and trunks" if size == "tiny" else "the rows' own trunks and heads"
        print(f"## {size}: {width}, two images of {SIZES[size][0]} x {SIZES[size][1]} and less\n")
        columns = ["losses", "gradients", "RoIs px", "boxes px", "scores", "mask pixels", "detections"]
        print(f"| detector: rows | back ends | {' | '.join(columns)} | |")
        print("| --- | --- |" + " --: |" * len(columns) + " --- |")
        for case in cases(size):
            differences, refused = compare(case, SIZES[size])
            for (one, two), found in differences.items():
                within = found.within(RELATIVE, PIXELS)
                good &= within
                values = [
                    found.losses,
                    found.gradients,
                    found.rois,
                    found.boxes,
                    found.scores,
                    found.mask_pixels,
                ]
                cells = [*(f"{value:.0e}" for value in values), str(found.detections)]
                verdict = "equal" if within else "DIFFERENT"
                print(f"| {case.title} | {one}, {two} | {' | '.join(cells)} | {verdict} |", flush=True)
            for backend, why in refused.items():
                print(f"| {case.title} | {backend} | {' | ' * len(columns)}{why} |", flush=True)
        print()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
