"""Sample new materials: ``python generate.py [group=option] [key=value]``; ``--help`` says more."""

import sys

from crystalfm.cli.task import run_task

if __name__ == "__main__":
    sys.exit(run_task("generate"))
