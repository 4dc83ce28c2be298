"""``python -m crystalfm``: the console command."""

import sys

from crystalfm.run.cli import main

if __name__ == "__main__":
    sys.exit(main())
