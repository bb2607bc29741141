"""One question a file; asv runs them from anywhere."""

import sys
from pathlib import Path

# Benchmarks take the batches they need from the tests, which are not installed.
sys.path.append(str(Path(__file__).parents[2]))
