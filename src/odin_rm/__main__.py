"""``python -m odin_rm`` is ``odin-rm``."""

import sys

from odin_rm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
