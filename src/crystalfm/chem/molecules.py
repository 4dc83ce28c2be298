"""Molecules from SMILES: validity with reasons, canonical form, SELFIES, and Morgan fingerprints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from rdkit.Chem import Mol

_CHUNK_ROWS = 8192
"""Molecules held in memory at once while fingerprints are made."""


class MoleculeError(ValueError):
    """A string that is not the molecule it should be.

    Args:
        reason: what is wrong with it, fit for a table of rejected rows.
        value: the string itself.
    """

    def __init__(self, reason: str, value: str) -> None:
        super().__init__(f"{reason} ({value!r})")
        self.reason = reason
        self.value = value


@dataclass(frozen=True)
class RowProblem:
    """Why one row of a sequence cannot be used.

    Attributes:
        row: position in the sequence.
        reason: what is wrong.
        value: the offending value.
    """

    row: int
    reason: str
    value: str


def parse_smiles(smiles: str) -> Mol:
    """Return RDKit's molecule of a SMILES string.

    Args:
        smiles: one SMILES without a name or extension behind it; blanks around it are ignored.

    Raises:
        MoleculeError: it is not a SMILES, or its chemistry is impossible (valence, aromaticity).
    """
    from rdkit import Chem, rdBase

    text = smiles.strip()
    if not text:
        raise MoleculeError("not a SMILES: empty", smiles)
    if any(character.isspace() for character in text):
        raise MoleculeError("not a SMILES: a blank inside", smiles)
    # RDKit reports on the terminal and returns nothing; the reason is worked out below instead.
    with rdBase.BlockLogs():
        molecule: Mol | None = Chem.MolFromSmiles(text)
        if molecule is not None:
            return molecule
        loose: Mol | None = Chem.MolFromSmiles(text, sanitize=False)
        if loose is None:
            raise MoleculeError(f"not a SMILES: {_syntax_problem(text)}", smiles)
        problems = [problem.Message() for problem in Chem.DetectChemistryProblems(loose)]
    raise MoleculeError(f"impossible molecule: {'; '.join(problems) or 'RDKit cannot sanitize it'}", smiles)


def canonical_smiles(smiles: str) -> str:
    """Return RDKit's canonical isomeric SMILES: equal for equal molecules, however they were written.

    Raises:
        MoleculeError: see ``parse_smiles``.
    """
    from rdkit import Chem

    return str(Chem.MolToSmiles(parse_smiles(smiles)))


def random_smiles(smiles: str, *, num: int, seed: int = 0) -> list[str]:
    """Return ``num`` SMILES of the same molecule, each from a random first atom and random branches.

    Training on them keeps a model from learning the order of atoms by heart (Bjerrum, arXiv 1703.07076, 2017).

    Args:
        smiles: a valid SMILES.
        num: how many; small molecules have fewer different ones, which then repeat.
        seed: the same seed gives the same strings.

    Raises:
        MoleculeError: see ``parse_smiles``.
    """
    from rdkit import Chem

    # RDKit takes seed 0 for no seed at all.
    return [str(text) for text in Chem.MolToRandomSmilesVect(parse_smiles(smiles), num, randomSeed=seed + 1)]


def canonicalize(values: Sequence[str | None]) -> tuple[list[str | None], list[RowProblem]]:
    """Return the canonical SMILES of each value, and the rows for which there is none.

    Args:
        values: SMILES strings; ``None`` marks a row without a molecule, which is no problem.

    Returns:
        one canonical SMILES a row (``None`` where absent or bad) and the problems in row order.
    """
    from rdkit import Chem, rdBase

    canonical: list[str | None] = []
    problems: list[RowProblem] = []
    with rdBase.BlockLogs():
        for row, value in enumerate(values):
            if value is None:
                canonical.append(None)
                continue
            try:
                canonical.append(Chem.MolToSmiles(parse_smiles(value)))
            except MoleculeError as error:
                canonical.append(None)
                problems.append(RowProblem(row, error.reason, value))
    return canonical, problems


def to_selfies(smiles: str) -> str:
    """Return the SELFIES string of a SMILES string under SELFIES' default semantic constraints.

    A molecule whose SMILES breaks the constraints only by its notation is encoded from RDKit's canonical SMILES:
    QM9 writes nitro groups as ``N(=O)=O``, with five bonds at the nitrogen, RDKit as ``[N+](=O)[O-]``.

    Raises:
        MoleculeError: SELFIES cannot represent the molecule (hypervalent halogens, wildcards), or it is none.
    """
    import selfies

    text = smiles.strip()
    try:
        return str(selfies.encoder(text, strict=True))
    except selfies.EncoderError as error:
        canonical = canonical_smiles(text)
        reason = _selfies_reason(str(error))
    try:
        return str(selfies.encoder(canonical, strict=True))
    except selfies.EncoderError as error:
        raise MoleculeError(f"SELFIES cannot encode it: {reason}", smiles) from error


def morgan_fingerprints(
    smiles: Sequence[str], *, radius: int = 2, num_bits: int = 2048, num_threads: int = 1
) -> NDArray[np.uint8]:
    """Return Morgan (extended-connectivity) fingerprints as packed bits.

    Rogers and Hahn, J. Chem. Inf. Model. 50, 742 (2010); RDKit's generator with its default atom invariants.

    Args:
        smiles: N valid SMILES strings.
        radius: bonds around each atom that are looked at.
        num_bits: length of the fingerprint, a multiple of eight.
        num_threads: threads RDKit may use.

    Returns:
        (N, num_bits / 8) uint8; ``numpy.unpackbits(..., axis=1)`` gives bit 0 first.

    Raises:
        MoleculeError: a string is not a valid SMILES.
        ValueError: ``num_bits`` is not a positive multiple of eight, or ``radius`` is negative.
    """
    from rdkit import DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    if num_bits <= 0 or num_bits % 8:
        raise ValueError(f"num_bits={num_bits} must be a positive multiple of 8")
    if radius < 0:
        raise ValueError(f"radius={radius} must not be negative")
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=num_bits)
    packed = np.empty((len(smiles), num_bits // 8), dtype=np.uint8)
    for start, molecules in _molecule_chunks(smiles):
        vectors = generator.GetFingerprints(molecules, numThreads=num_threads)
        buffer = b"".join(DataStructs.BitVectToBinaryText(vector) for vector in vectors)
        packed[start : start + len(molecules)] = np.frombuffer(buffer, dtype=np.uint8).reshape(len(molecules), -1)
    # RDKit puts bit 0 into the lowest bit of a byte, NumPy's packing into the highest.
    return _reversed_bits()[packed]


def _molecule_chunks(smiles: Sequence[str]) -> Iterator[tuple[int, list[Mol]]]:
    """Yield (first row, parsed molecules) a chunk at a time."""
    from rdkit import rdBase

    for start in range(0, len(smiles), _CHUNK_ROWS):
        with rdBase.BlockLogs():
            molecules = [parse_smiles(text) for text in smiles[start : start + _CHUNK_ROWS]]
        yield start, molecules


def _reversed_bits() -> NDArray[np.uint8]:
    """Return the table (256,) that reverses the bits of a byte."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return np.packbits(bits[:, ::-1], axis=1)[:, 0]


def _syntax_problem(text: str) -> str:
    """Name the likeliest reason why RDKit's parser gave up on ``text``."""
    for opening, closing, name in (("(", ")", "parentheses"), ("[", "]", "square brackets")):
        if text.count(opening) != text.count(closing):
            return f"{name} do not match"
    outside, inside = [], False
    for character in text:
        inside = (inside or character == "[") and character != "]"
        if not inside and character.isdigit():
            outside.append(character)
    if "%" not in text and any(outside.count(digit) % 2 for digit in set(outside)):
        return "a ring is opened and not closed"
    return "unknown symbol or wrong order of symbols"


def _selfies_reason(message: str) -> str:
    """Return the telling part of SELFIES' message of several lines on one line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    details = [line for line in lines[1:] if not line.startswith(("SMILES:", "Errors:"))]
    return "; ".join(line.strip("[]") for line in details) or lines[0]
