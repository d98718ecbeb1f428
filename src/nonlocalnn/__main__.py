"""``python -m nonlocalnn``."""

import sys

from nonlocalnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
