"""Shared set-up: one thread per process, so that numbers do not depend on the machine's load."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
