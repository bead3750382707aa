"""Train a model from a clone: `python scripts/train.py --help`.

The command itself is patching/cli/train.py; installed, it is `mingpt-train`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import train

if __name__ == "__main__":
    sys.exit(train())
