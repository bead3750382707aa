"""Show how texts become tokens, from a clone: `python scripts/tokens.py --help`.

The command itself is patching/cli/tokens.py; installed, it is `mingpt-tokens`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import tokens

if __name__ == "__main__":
    sys.exit(tokens())
