"""Read a large number of broken crystal texts: each must be read or be refused with a reason, and nothing else.

usage: python scripts/fuzz_crystal_text.py [--strings 1000000] [--seed 0]

The texts are good ones with characters and lines changed, repeated, moved and cut. What is read is written again and
must give the same text. Prints how many were read, and how many were refused for which reason.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from crystalfm.chem.crystal_text import CrystalTextError, CrystalTextFormat, TextProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SEEDS = (
    "4.0 4.0 4.0\n90 90 90\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50",
    "3.1 12.7 101.4\n89 120 100\nH\n0.99 0.01 0.25\nLr\n0.10 0.20 0.30\nLr\n0.11 0.21 0.31",
)
CHARACTERS = "0123456789.- \n\t\r,eE+NaClOHXx[MASK]é٣²½\x00\ud800"
_NUM_CHANGES = (0, 1, 1, 1, 2, 4, 16)
_NUM_REPEATS = (1, 1, 2, 400)


def mutations(count: int, *, seed: int, texts: Sequence[str] = SEEDS) -> Iterator[str]:
    """Yield ``count`` texts made of good ones, the same for the same ``seed``."""
    rng = random.Random(seed)  # noqa: S311
    for _ in range(count):
        text = rng.choice(texts)
        for _ in range(rng.choice(_NUM_CHANGES)):
            text = rng.choice(_CHANGES)(text, rng)
        yield text


def fuzz(count: int, *, seed: int) -> tuple[int, Counter[TextProblem]]:
    """Return how many of ``count`` texts were read, and how many were refused by reason.

    Raises:
        RuntimeError: a text was read and written differently.
        Exception: whatever reading raised besides ``CrystalTextError``.
    """
    form = CrystalTextFormat()
    num_read = 0
    refused: Counter[TextProblem] = Counter()
    for text in mutations(count, seed=seed):
        try:
            crystal = form.read(text)
        except CrystalTextError as error:
            refused[error.problem] += 1
        else:
            num_read += 1
            if form.write(crystal) != text:
                raise RuntimeError(f"read, but written differently: {text!r}")
    return num_read, refused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzer and print what it met; return the exit status."""
    parser = argparse.ArgumentParser(description="Read a large number of broken crystal texts.")
    parser.add_argument("--strings", type=int, default=1_000_000, help="number of texts (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the changes (default: 0)")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    num_read, refused = fuzz(options.strings, seed=options.seed)
    seconds = time.perf_counter() - start
    lines = [f"{options.strings:,} texts in {seconds:.0f} s: {num_read:,} read", "refused:"]
    lines += [f"  {count:>9,}  {problem}" for problem, count in refused.most_common()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _replaced(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(CHARACTERS) + text[place + 1 :]


def _digit(text: str, rng: random.Random) -> str:
    places = [place for place, character in enumerate(text) if character.isdigit()]
    if not places:
        return text
    place = rng.choice(places)
    return text[:place] + rng.choice("0123456789") + text[place + 1 :]


def _inserted(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(CHARACTERS) * rng.choice(_NUM_REPEATS) + text[place:]


def _cut_out(text: str, rng: random.Random) -> str:
    first, last = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    return text[:first] + text[last:]


def _cut_short(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _lines_shuffled(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    rng.shuffle(lines)
    return "\n".join(lines)


def _line_dropped(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    del lines[rng.randrange(len(lines))]
    return "\n".join(lines)


def _line_repeated(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return "\n".join(lines)


_CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    _replaced, _digit, _digit, _inserted, _cut_out, _cut_short, _lines_shuffled, _line_dropped, _line_repeated,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
