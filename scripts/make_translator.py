"""Make a small English-Spanish translator: `python scripts/make_translator.py --help`.

The work is done in scripts/translation/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from translation.make import main

if __name__ == "__main__":
    sys.exit(main())
