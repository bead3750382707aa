"""Explain one prediction, from a clone: `python scripts/explain.py --help`.

The command itself is patching/cli/explain.py; installed, it is `mingpt-explain`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import explain

if __name__ == "__main__":
    sys.exit(explain())
