"""How well changes of masked words in bfloat16 agree with those in float32.

    python evaluate.py ckpt=RUN explain=words explain_rows=20 explain_precision=float32
    python evaluate.py ckpt=RUN explain=words explain_rows=20 explain_precision=bfloat16
    python benchmarks/word_precision.py FIRST/explanations/words.csv SECOND/explanations/words.csv

Prints the correlation of the changes over all words, the mean of the correlations within a text, and the norm of the
difference beside the norm of the changes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd


def main() -> None:
    """Compare two tables of the same words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exact", type=Path, help="words.csv in float32")
    parser.add_argument("fast", type=Path, help="words.csv in bfloat16")
    options = parser.parse_args()
    keys = ["id", "place", "word", "target"]
    both = pd.read_csv(options.exact).merge(pd.read_csv(options.fast), on=keys, validate="one_to_one")
    exact, fast = both["change_x"].to_numpy(), both["change_y"].to_numpy()
    within = [np.corrcoef(part["change_x"], part["change_y"])[0, 1] for _, part in both.groupby(["id", "target"])]
    print(f"words: {len(both)} in {both['id'].nunique()} texts")
    print(f"correlation over all words: {np.corrcoef(exact, fast)[0, 1]:.5f}")
    print(f"mean correlation within a text: {np.nanmean(within):.4f}, least {np.nanmin(within):.4f}")
    print(f"norm of the difference: {np.linalg.norm(exact - fast) / np.linalg.norm(exact):.4f} of the changes'")


if __name__ == "__main__":
    main()
