"""Make the shipped model again: python scripts/train_builtin.py --help

The work is builtin_model/train.py's.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from builtin_model.train import main

if __name__ == "__main__":
    sys.exit(main())
