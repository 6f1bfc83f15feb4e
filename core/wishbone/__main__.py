"""``python -m wishbone`` is the command ``wishbone``; torchrun starts it this way."""

import sys

from wishbone.core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
