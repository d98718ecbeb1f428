"""``python -m nonlocalnn``."""

import sys

from nonlocalnn.cli import main

sys.exit(main())
