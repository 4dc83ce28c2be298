"""How likely a language model holds crystals or configurations of defects to be: each in a table, and over a split."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

from crystalfm.io.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from crystalfm.run.prepare import PreparedData


@dataclass(frozen=True)
class Likelihood:
    """Likelihood of a set of crystals.

    Attributes:
        num_crystals: crystals.
        num_tokens: learned tokens of all of them.
        loss: mean negative log-likelihood of a token, in nats.
        nats_per_crystal: mean negative log-likelihood of a crystal, in nats; comparable between tokenizers, as far as
            they write the same texts.
        num_decided: learned tokens that the grammar leaves a choice about; 0 where they were not counted.
        decided_loss: mean negative log-likelihood of those, in nats; ``None`` without any. The loss of all tokens of
            an answer that mostly copies says how well it copies.
    """

    num_crystals: int
    num_tokens: int
    loss: float
    nats_per_crystal: float
    num_decided: int = 0
    decided_loss: float | None = None

    @classmethod
    def of(cls, predicted: NDArray[np.float64]) -> Likelihood:
        """Return the likelihood of crystals from what the model predicts of each.

        Args:
            predicted: (N, 4) summed negative log-likelihood in nats, and number of tokens, of all learned tokens and
                of the decided ones.
        """
        total, tokens, decided_total, decided = predicted.sum(axis=0)
        return cls(
            len(predicted),
            int(tokens),
            float(total / tokens),
            float(total / len(predicted)),
            int(decided),
            float(decided_total / decided) if decided else None,
        )

    @property
    def perplexity(self) -> float:
        """Exponential of the loss."""
        return exp(self.loss)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        found: dict[str, Any] = {
            "num_crystals": self.num_crystals,
            "num_tokens": self.num_tokens,
            "loss": self.loss,
            "perplexity": self.perplexity,
            "nats_per_crystal": self.nats_per_crystal,
        }
        if self.decided_loss is not None:
            found |= {"num_decided": self.num_decided, "decided_loss": self.decided_loss}
        return found


def likelihood_table(results: Mapping[str, Likelihood]) -> Table:
    """Return a table with a row a split; decided tokens have columns where there are any."""
    decided = any(found.decided_loss is not None for found in results.values())
    kind = "configuration" if decided else "crystal"
    table = Table(box=box.SIMPLE_HEAD, title=f"likelihood of the {kind}s", title_justify="left", pad_edge=False)
    table.add_column("split")
    headings = [f"{kind}s", "tokens", "nats a token", "perplexity", f"nats a {kind}"]
    for heading in headings + ["decided", "nats a decided token"] * decided:
        table.add_column(heading, justify="right")
    for name, found in results.items():
        cells = [f"{found.loss:.4f}", f"{found.perplexity:.3f}", f"{found.nats_per_crystal:.2f}"]
        if decided:
            mean = "" if found.decided_loss is None else f"{found.decided_loss:.4f}"
            cells += [f"{found.num_decided:,}", mean]
        table.add_row(name, f"{found.num_crystals:,}", f"{found.num_tokens:,}", *cells)
    return table


def write_likelihoods(
    path: Path, prepared: PreparedData, rows: NDArray[np.int64], predicted: NDArray[np.float64]
) -> None:
    """Write the likelihood of each crystal as Parquet: id, split, formula, nats, tokens; in the table's order.

    Where decided tokens were counted, so are ``decided_nats`` and ``decided_tokens``.

    Args:
        path: file to write.
        prepared: data.
        rows: (K,) rows of the table.
        predicted: (K, 4) see ``Likelihood.of``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from crystalfm.chem.crystals import Crystal

    names = np.full(len(prepared.table), "", dtype=object)
    for name, part in prepared.splits.parts.items():
        names[part] = name
    structures = prepared.table.fields["structure"]
    columns: dict[str, Any] = {
        "id": prepared.table.ids[rows].tolist(),
        "split": names[rows].tolist(),
        "formula": [Crystal.from_json(structures[row] or "").formula for row in rows.tolist()],
        "nats": predicted[:, 0],
        "tokens": predicted[:, 1].astype(np.int64),
    }
    if predicted[:, 3].any():
        columns |= {"decided_nats": predicted[:, 2], "decided_tokens": predicted[:, 3].astype(np.int64)}
    with atomic_write(path) as stream:
        pq.write_table(pa.table(columns), stream)
