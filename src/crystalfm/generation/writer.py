"""A trained language model, ready to write crystals: network, tokenizer and how prompts and crystals are worded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crystalfm.contracts import UserError
from crystalfm.generation.prompts import PromptSettings

if TYPE_CHECKING:
    from crystalfm.generation.wording import AnyPrompts


@dataclass(frozen=True)
class CrystalWriter:
    """A causal language model that writes crystals, or the defects of layers.

    Prompt and completion are tokenized apart and put one after the other, in training and in sampling alike: no token
    spans the seam, so that what is sampled is what was learned.

    Attributes:
        model: causal language model of transformers, in evaluation mode.
        tokenizer: its fast tokenizer, with an end-of-sequence token.
        prompts: how prompts and answers are worded.
    """

    model: Any
    tokenizer: Any
    prompts: AnyPrompts

    @property
    def crystal_prompts(self) -> PromptSettings:
        """How prompts and crystals are worded.

        Raises:
            UserError: the model writes defects.
        """
        if not isinstance(self.prompts, PromptSettings):
            raise UserError(
                "the model writes defects of layers, not crystals", remedy="give a run trained on crystals (data=mp)"
            )
        return self.prompts

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, after the begin-of-sequence token where the tokenizer has one."""
        return prompt_ids(self.tokenizer, prompt)

    def completion_ids(self, completion: str) -> list[int]:
        """Return the tokens of a completion and the end-of-sequence token."""
        return completion_ids(self.tokenizer, completion)


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return the tokens of a prompt, after the begin-of-sequence token where the tokenizer has one."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *ids]


def completion_ids(tokenizer: Any, completion: str) -> list[int]:
    """Return the tokens of a completion and the end-of-sequence token."""
    ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]
