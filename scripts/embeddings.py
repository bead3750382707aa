"""Look at embeddings from a clone: `python scripts/embeddings.py --help`.

The command itself is patching/cli/embeddings.py; installed, it is `mingpt-embeddings`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone's own packages

from patching.cli.start import embeddings

if __name__ == "__main__":
    sys.exit(embeddings())
