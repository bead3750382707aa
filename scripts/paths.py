"""Patch paths, from a clone: `python scripts/paths.py --help`.

The command itself is patching/cli/paths.py; installed, it is `mingpt-paths`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import paths

if __name__ == "__main__":
    sys.exit(paths())
