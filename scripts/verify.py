"""Verify the numbers on a model, from a clone: `python scripts/verify.py --help`.

The command itself is patching/cli/verify.py; installed, it is `mingpt-verify`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import verify

if __name__ == "__main__":
    sys.exit(verify())
