"""``python -m tests.canary``: does the code compute what its versions stand for?

Where no number has moved, code that was edited keeps its version, and this says so in
``benchmark/numerics.json``. Where numbers have moved, the version of what was changed on purpose has to be
raised:

    python -m tests.canary --raise training bags

New numbers are written to ``tests/canary/expected.json``.
"""

import argparse
import os
import sys
from pathlib import Path

from tests.canary.measure import ENVIRONMENT


def main() -> int:
    """Returns 0 if versions and numbers agree (after they are updated, if necessary), 1 if numbers have
    changed."""
    parser = argparse.ArgumentParser(prog="python -m tests.canary", description=__doc__)
    parser.add_argument(
        "--raise", nargs="+", default=[], metavar="NAME", dest="raised", help="areas or methods that changed"
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)  # read when libraries are loaded
        os.execv(sys.executable, [sys.executable, "-m", "tests.canary", *sys.argv[1:]])
    from tests.canary.verdict import confirm

    return confirm(
        arguments.raised, write=not arguments.check, expected=Path(__file__).with_name("expected.json")
    )


if __name__ == "__main__":
    sys.exit(main())
