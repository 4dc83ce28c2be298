"""Every character of a description belongs to one tag."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crystalfm.contracts import UserError
from crystalfm.explain.tags import (
    BOND_ANGLE,
    BOND_LENGTH,
    BONDS,
    CHEMICAL,
    COORDINATION,
    OTHER,
    ROBOCRYS_TAGS,
    SITE,
    STRUCTURE,
    SUMMARY,
    chemnlp_parts,
    robocrys_parts,
    tagger,
    without,
)

PEROVSKITE = (
    "CaTiO₃ is (Cubic) Perovskite structured and crystallizes in the cubic Pm-3m space group. "
    "The structure consists of one framework. There are two inequivalent O sites. "
    "Ca(1) is bonded to twelve equivalent O(1) atoms to form CaO12 cuboctahedra. "
    "All Ca(1)-O(1) bond lengths are 2.75 Å. There are a spread of Ti(1)-O(1) bond distances ranging from 1.95-2.10 Å. "
    "The corner-sharing octahedra are not tilted. Nothing else is known."
)


def test_each_kind_of_sentence_has_its_tag() -> None:
    tags = [part.tag for part in robocrys_parts(PEROVSKITE)]
    assert tags == [SUMMARY, SUMMARY, SITE, COORDINATION, BOND_LENGTH, BOND_LENGTH, BOND_ANGLE, OTHER]


@pytest.mark.parametrize("text", [PEROVSKITE, "", "One word", "No full stop. 2 numbers. Ends here"])
def test_the_parts_together_are_the_text(text: str) -> None:
    assert "".join(part.text for part in robocrys_parts(text)) == text
    assert "".join(part.text for part in chemnlp_parts(text)) == text


def test_decimal_points_do_not_end_a_sentence() -> None:
    parts = robocrys_parts("NaCl is cubic. All Na(1)-Cl(1) bond lengths are 2.84 Å. Na(1) is bonded to six atoms.")
    assert [part.tag for part in parts] == [SUMMARY, BOND_LENGTH, COORDINATION]


def test_blocks_of_chemnlp() -> None:
    blocks = [
        "The chemical information include: The chemical has an atomic formula of NaCl. ",
        "The structure information include: The lattice parameters are 3.0; ",
        "The bond distances are as follows: Na-Cl: 2.84.",
    ]
    parts = chemnlp_parts("".join(blocks))
    assert [(part.text, part.tag) for part in parts] == list(zip(blocks, [CHEMICAL, STRUCTURE, BONDS], strict=True))
    assert chemnlp_parts("of unknown origin")[0].tag == OTHER
    assert without(parts, STRUCTURE) == (blocks[0] + blocks[2])
    assert without(parts, BONDS) == (blocks[0] + blocks[1]).rstrip()


def test_other_sources_of_texts_are_refused() -> None:
    with pytest.raises(UserError, match=r"'mine' have no known parts(?s:.*)robocrys or chemnlp"):
        tagger("mine")


MIRROR = os.environ.get("CRYSTALFM_MIRROR")
"""Read when the module is imported: tests themselves do not see the user's settings."""


@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_nearly_no_sentence_of_real_descriptions_is_without_a_tag() -> None:
    """Fifty real crystals of different formulas, described here."""
    pytest.importorskip("robocrys", reason="needs robocrys")
    path = Path(MIRROR or ".") / "jarvis" / "jdft_3d-subset.json.zip"
    if not path.is_file():
        pytest.skip("needs JARVIS-DFT in the mirror that CRYSTALFM_MIRROR names")
    from crystalfm.chem.crystals import Crystal
    from crystalfm.chem.robocrys_text import describe
    from crystalfm.data.jarvis import Jarvis

    table = Jarvis(path=str(path)).load()
    crystals = [Crystal.from_json(text or "") for text in table.fields["structure"]]
    distinct = {crystal.formula: crystal for crystal in crystals if crystal.num_atoms <= 8}
    parts = [part for crystal in list(distinct.values())[:50] for part in robocrys_parts(describe(crystal))]
    shares = {tag: sum(part.tag == tag for part in parts) / len(parts) for tag in ROBOCRYS_TAGS}
    assert len(distinct) > 50
    assert shares[OTHER] < 0.01, json.dumps(shares)
    assert min(shares[tag] for tag in (SUMMARY, SITE, COORDINATION, BOND_LENGTH)) > 0.02, json.dumps(shares)
