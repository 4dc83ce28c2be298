"""Score a trained model: ``python evaluate.py [group=option] [key=value]``; ``--help`` says more."""

import sys

from crystalfm.cli.task import run_task

if __name__ == "__main__":
    sys.exit(run_task("evaluate"))
