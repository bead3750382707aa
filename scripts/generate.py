"""Continue prompts, from a clone: `python scripts/generate.py --help`.

The command itself is patching/cli/generate.py; installed, it is `mingpt-generate`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import generate

if __name__ == "__main__":
    sys.exit(generate())
