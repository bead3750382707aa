"""Measure how fast the sweep is, from a clone: `python scripts/bench.py --help`.

The code is in scripts/benchmark/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from benchmark.command import main

if __name__ == "__main__":
    sys.exit(main())
