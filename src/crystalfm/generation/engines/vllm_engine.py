"""Sampling with vLLM, held to the grammar by its structured outputs.

vLLM takes a regular expression. That covers the text's layout, allowed elements, and the number of atoms, but neither
angles that make no cell nor how often an element occurs: completions that break those are drawn again, a limited
number of times. Not run here: it needs a GPU. Tests check what vLLM is called with on a stand-in.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystal_text import CrystalTextError
from crystalfm.chem.crystals import SYMBOLS
from crystalfm.contracts import UserError
from crystalfm.generation.constraints import Constraint
from crystalfm.generation.grammar import CrystalGrammar
from crystalfm.generation.prompts import PromptSettings
from crystalfm.generation.sampling import Request, Sample, SamplingSettings
from crystalfm.generation.writer import prompt_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from crystalfm.chem.crystal_text import CrystalTextFormat
    from crystalfm.generation.constraints import Task
    from crystalfm.generation.wording import AnyPrompts

DEFAULT_ROUNDS = 10
_SEED_BYTES = 4


class VllmEngine:
    """Writes completions with vLLM.

    Args:
        folder: Hugging Face folder with weights and tokenizer, adapters merged.
        prompts: wording of prompts and crystals that the model was trained with.
        rounds: how often a completion that breaks its constraint is drawn anew before it is given as it is.
        dtype: precision as vLLM names it.

    Raises:
        UserError: vLLM is not installed, the folder is none, or the model writes defects, whose order no regular
            expression can keep.
    """

    def __init__(
        self, folder: str | Path, prompts: AnyPrompts, *, rounds: int = DEFAULT_ROUNDS, dtype: str = "auto"
    ) -> None:
        if not isinstance(prompts, PromptSettings):
            raise UserError("vLLM cannot be held to the grammar of defects", remedy="engine=transformers")
        if not Path(folder).is_dir():
            raise UserError(f"{folder} is no folder with a model", remedy="write one with crystalfm export")
        try:
            vllm: Any = import_module("vllm")
            parameters: Any = import_module("vllm.sampling_params")
        except ImportError as error:
            raise UserError(
                "vLLM 0.12 or newer is not installed",
                remedy="on a machine with a GPU: pip install 'vllm>=0.12', or engine=transformers",
            ) from error
        self.prompts = prompts
        self.rounds = rounds
        self._sampling_params = vllm.SamplingParams
        self._structured = parameters.StructuredOutputsParams
        self._model = vllm.LLM(model=str(folder), dtype=dtype)
        self._tokenizer = self._model.get_tokenizer()
        self._grammar = CrystalGrammar(self._tokenizer, prompts.text)

    def sample(self, requests: Iterable[Request], settings: SamplingSettings) -> Iterator[Sample]:
        """Yield a sample for each request.

        vLLM's random numbers belong to a request (its seed is made of the settings' seed, the request's index and the
        round), but its arithmetic depends on the batch. The log-probability is what vLLM gives: the model's own at all
        tokens, not renormalised over the allowed ones. Forced tokens are not told apart (``num_forced`` is 0).

        Raises:
            UserError: the tokens do not suffice for a completion, two requests have the same index, or atoms are to
                keep a distance, which is nothing that a regular expression can say.
        """
        waiting = list(requests)
        if len({request.index for request in waiting}) < len(waiting):
            raise UserError("two requests have the same index", remedy="number the requests")
        if any(_constraint_of(request).min_distance is not None for request in waiting):
            raise UserError("vLLM cannot be held to min_distance", remedy="engine=transformers, or min_distance=null")
        for request in waiting:
            # Refuses what cannot be fulfilled.
            self._grammar.start(request.task, request.constraint, settings.max_new_tokens)
        for first in range(0, len(waiting), settings.batch_size):
            batch = waiting[first : first + settings.batch_size]
            for number in range(self.rounds):
                again: list[Request] = []
                for request, sample in zip(batch, self._draw(batch, settings, number), strict=True):
                    if number + 1 == self.rounds or self._keeps(request, sample):
                        yield sample
                    else:
                        again.append(request)
                batch = again
                if not batch:
                    break

    def _draw(self, batch: Sequence[Request], settings: SamplingSettings, number: int) -> list[Sample]:
        prompts = [{"prompt_token_ids": prompt_ids(self._tokenizer, request.prompt)} for request in batch]
        asked = [self._asked(request, settings, number) for request in batch]
        outputs = self._model.generate(prompts, sampling_params=asked, use_tqdm=False)
        samples = []
        for request, output in zip(batch, outputs, strict=True):
            written = output.outputs[0]
            ids = list(written.token_ids)
            finished = written.finish_reason == "stop"
            text = self._tokenizer.decode(
                [token for token in ids if token != self._tokenizer.eos_token_id],
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            )
            samples.append(Sample(request.index, text, len(ids), 0, float(written.cumulative_logprob), finished))
        return samples

    def _asked(self, request: Request, settings: SamplingSettings, number: int) -> Any:
        """Return vLLM's parameters of a request."""
        structured = None
        constraint = _constraint_of(request)
        if constraint.kind != "none":
            most = self._most_atoms(request, settings)
            pattern = completion_pattern(request.task, constraint, self.prompts.text, most)
            structured = self._structured(regex=pattern)
        return self._sampling_params(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=-1 if settings.top_k is None else settings.top_k,
            max_tokens=settings.max_new_tokens,
            seed=_request_seed(settings.seed, request.index, number),
            logprobs=0,
            structured_outputs=structured,
        )

    def _most_atoms(self, request: Request, settings: SamplingSettings) -> int:
        """Return the most atoms for which the tokens surely suffice."""
        if request.task == "infill":
            return 1
        constraint = _constraint_of(request)
        elements = self._grammar.element_values(constraint)
        room = (settings.max_new_tokens - 1 - self._grammar.cell_tokens) // self._grammar.site_tokens(elements)
        return min(constraint.max_atoms, room)

    def _keeps(self, request: Request, sample: Sample) -> bool:
        """Return whether a completion keeps its constraint."""
        constraint = _constraint_of(request)
        if constraint.kind == "none" or request.task == "infill":
            return True
        try:
            crystal = self.prompts.text.read(sample.text)
        except CrystalTextError:
            return False
        if constraint.kind == "parse":
            return True
        ratio = constraint.reduced_formula
        counts = [crystal.atomic_numbers.tolist().count(SYMBOLS.index(name) + 1) for name in ratio]
        units = crystal.num_atoms // sum(ratio.values())
        return counts == [units * count for count in ratio.values()]


def _constraint_of(request: Request) -> Constraint:
    if not isinstance(request.constraint, Constraint):
        raise UserError("this model writes crystals, not defects", remedy="give a run trained on data=2dmd")
    return request.constraint


def completion_pattern(task: Task, constraint: Constraint, text_format: CrystalTextFormat, max_atoms: int) -> str:
    """Return a regular expression of the completions that a constraint allows.

    Two things it cannot say: which angles make a cell, and how often each element occurs. Cell lengths are at least 1
    angstrom, with a single expression for all digits.

    Args:
        task: whether a crystal or an element's symbol is written.
        constraint: what has to be fulfilled; not of the kind ``none``.
        text_format: how crystals are written.
        max_atoms: most atoms.
    """
    allowed = constraint.reduced_formula if constraint.kind == "formula" else constraint.elements
    symbols = sorted(allowed if allowed is not None else SYMBOLS, key=lambda symbol: (-len(symbol), symbol))
    element = f"({'|'.join(symbols)})"
    if task == "infill":
        return element
    length = _number("[1-9][0-9]{0,2}", text_format.length_digits)
    angle = _number("(1[0-7][0-9]|[1-9][0-9]|[1-9])", text_format.angle_digits)
    coord = f"0\\.[0-9]{{{text_format.coord_digits}}}"
    site = f"\\n{element}\\n{coord} {coord} {coord}"
    unit = sum(constraint.reduced_formula.values()) if constraint.kind == "formula" else 1
    sites = f"({site}){{{unit}}}" if unit > 1 else site
    return f"{length} {length} {length}\\n{angle} {angle} {angle}({sites}){{1,{max_atoms // unit}}}"


def _number(whole: str, digits: int) -> str:
    return f"{whole}\\.[0-9]{{{digits}}}" if digits else whole


def _request_seed(seed: int, index: int, number: int) -> int:
    """Return a seed of 31 bits for one drawing of a request."""
    digest = hashlib.sha256(f"{seed} {index} {number}".encode()).digest()
    return int.from_bytes(digest[:_SEED_BYTES], "big") >> 1
