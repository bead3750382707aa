"""Fetch models ahead of time, from a clone: `python scripts/fetch.py --help`.

The command itself is patching/cli/fetch.py; installed, it is `mingpt-fetch`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import fetch

if __name__ == "__main__":
    sys.exit(fetch())
