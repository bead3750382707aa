"""Patch activations, from a clone: `python scripts/patch.py --help`.

The command itself is patching/cli/patch.py; installed, it is `mingpt-patch`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import patch

if __name__ == "__main__":
    sys.exit(patch())
