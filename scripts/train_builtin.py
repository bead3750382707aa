"""Train the shipped model again, or measure it.

Run: python scripts/train_builtin.py --help. The code is in scripts/builtin_model/train.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from builtin_model.train import main

if __name__ == "__main__":
    sys.exit(main())
