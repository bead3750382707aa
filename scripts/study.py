"""Study many pairs from a clone: `python scripts/study.py --help`.

The command itself is patching/cli/study.py; installed, it is `mingpt-study`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import study

if __name__ == "__main__":
    sys.exit(study())
