"""``python -m crystalfm``: the console command, and what every further process of a distributed run executes."""

import logging
import os
import sys

from crystalfm.cli.main import main
from crystalfm.run.parallel.stamp import is_child_rank

if __name__ == "__main__":
    code = main()
    if is_child_rank():
        # Threads of the process group can abort the interpreter's own way out, after all work is done.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
