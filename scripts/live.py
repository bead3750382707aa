"""Serve the live page, from a clone: `python scripts/live.py --help`.

The command itself is patching/cli/live.py; installed, it is `mingpt-live`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import live

if __name__ == "__main__":
    sys.exit(live())
