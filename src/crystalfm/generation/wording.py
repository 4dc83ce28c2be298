"""Prompts of crystals and prompts of defects, told apart where a checkpoint or a writer holds either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crystalfm.generation.defects.prompts import KIND, DefectPromptSettings
from crystalfm.generation.prompts import PromptSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crystalfm.generation.writing import PieceGrammar

AnyPrompts = PromptSettings | DefectPromptSettings


def prompts_from_state(state: Mapping[str, Any]) -> AnyPrompts:
    """Return the settings that their ``state`` describes.

    Raises:
        UserError: the wording is of another version, or a setting is unknown, missing or out of range.
    """
    if state.get("kind") == KIND:
        return DefectPromptSettings.from_state(state)
    return PromptSettings.from_state(state)


def tokenizer_of(prompts: AnyPrompts) -> Any:
    """Return the tokenizer of a model from scratch."""
    if isinstance(prompts, DefectPromptSettings):
        from crystalfm.generation.defects.tokenizer import build_defect_tokenizer

        return build_defect_tokenizer(prompts)
    from crystalfm.generation.crystal_tokenizer import build_crystal_tokenizer

    return build_crystal_tokenizer(prompts)


def grammar_of(prompts: AnyPrompts, tokenizer: Any) -> PieceGrammar:
    """Return the grammar of the texts.

    Raises:
        UserError: the tokenizer joins what the grammar has to keep apart.
    """
    if isinstance(prompts, DefectPromptSettings):
        from crystalfm.generation.defects.grammar import DefectGrammar

        return DefectGrammar(tokenizer, prompts)
    from crystalfm.generation.grammar import CrystalGrammar

    return CrystalGrammar(tokenizer, prompts.text)
