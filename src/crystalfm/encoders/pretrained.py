"""Encoders of transformers: reading weights, configurations and tokenizers from a folder, and rebuilding them."""

from __future__ import annotations

import importlib.util
import json
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal

import torch

from crystalfm.contracts import UserError
from crystalfm.encoders.text_tokenizer import TextTokenizer, smiles_vocabulary_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import nn

_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert"})
"""Model types whose position table begins after the padding token's id."""

_UNUSED_WEIGHTS = ("pooler.",)
"""Parts of a model that need not be in its file: they do not act on the last hidden states."""

_NOT_IN_STATE = ("auto_map", "quantization_config")


@dataclass(frozen=True)
class PretrainedSource:
    """Where a pretrained encoder lies and how its files are to be read.

    Attributes:
        asset: name for messages.
        folder: folder in Hugging Face format, or one that holds ``gguf_file``.
        gguf_file: GGUF file in the folder, or ``None``.
        model_type: architecture, for a ``config.json`` that does not say (``bert``), or ``None``.
        tokenizer: ``auto`` reads the folder's tokenizer; ``smiles`` splits SMILES atom-wise and looks the
            tokens up in ``vocab.txt``.
        lowercase: overrides the tokenizer's lower-casing, for a folder with only ``vocab.txt``.
    """

    asset: str
    folder: Path
    gguf_file: str | None = None
    model_type: str | None = None
    tokenizer: Literal["auto", "smiles"] = "auto"
    lowercase: bool | None = None

    def check(self) -> None:
        """Look for the files that cannot be missing.

        Raises:
            UserError: one is missing, or what reads it is not installed.
        """
        needed = self.gguf_file or "config.json"
        if not (self.folder / needed).is_file():
            there = sorted(path.name for path in self.folder.glob("*") if path.is_file())
            raise UserError(
                f"asset '{self.asset}' has no file {needed} in {self.folder}",
                remedy=f"files there: {', '.join(there) or 'none'}",
            )
        if self.gguf_file is not None and importlib.util.find_spec("gguf") is None:
            raise UserError("reading a GGUF file needs the package gguf", remedy="pip install gguf")

    def options(self) -> dict[str, Any]:
        """Return the arguments common to all readers: nothing is downloaded, no code of the folder is run."""
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        if self.gguf_file is not None:
            options["gguf_file"] = self.gguf_file
        return options


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and its notes on weights that are not used; errors pass."""
    from transformers.utils import logging

    control: Any = logging
    level = control.get_verbosity()
    bars = control.is_progress_bar_enabled()
    control.set_verbosity_error()
    control.disable_progress_bar()
    try:
        yield
    finally:
        control.set_verbosity(level)
        if bars:
            control.enable_progress_bar()


@contextmanager
def _reading(source: PretrainedSource) -> Iterator[None]:
    source.check()
    with quiet(), ExitStack() as stack:
        if source.gguf_file is not None:
            # Its progress bar heeds no switch; logging and errors do not come this way.
            stack.enter_context(redirect_stderr(StringIO()))
        try:
            yield
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise UserError(
                f"asset '{source.asset}' in {source.folder} cannot be read: {error}",
                remedy="fetch it again (python -m crystalfm.fetch) or mend the mirror",
            ) from error


def load_config(source: PretrainedSource) -> Any:
    """Return the transformers configuration of ``source``.

    Raises:
        UserError: there is none that can be read.
    """
    from transformers import AutoConfig

    with _reading(source):
        if source.model_type is None:
            return AutoConfig.from_pretrained(source.folder, **source.options())
        values = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
        return AutoConfig.for_model(source.model_type, **values)


def load_encoder(source: PretrainedSource, config: Any) -> nn.Module:
    """Read the encoder in float32: the whole model, or the encoder of an encoder-decoder.

    Args:
        source: where its files lie.
        config: what `load_config` returned for ``source``.

    Raises:
        UserError: the files cannot be read or lack weights of the encoder.
    """
    from transformers import AutoModel

    with _reading(source):
        model, info = AutoModel.from_pretrained(
            source.folder, config=config, dtype=torch.float32, output_loading_info=True, **source.options()
        )
    absent = [key for key in info["missing_keys"] if not key.startswith(_UNUSED_WEIGHTS)]
    wrong = absent + [str(key) for key in info["mismatched_keys"]]
    if wrong:
        raise UserError(
            f"asset '{source.asset}' in {source.folder} lacks {len(wrong)} weights of a {config.model_type}, "
            f"the first of them {min(wrong)}",
            remedy="the folder's configuration and weights do not belong together, or model_type is wrong",
        )
    return _adapted(model)


def empty_encoder(config: Mapping[str, Any]) -> nn.Module:
    """Build an encoder from its plain configuration, weights untrained.

    Raises:
        UserError: transformers does not know the architecture.
    """
    from transformers import AutoConfig, AutoModel

    values = dict(config)
    model_type = values.pop("model_type", None)
    builder: Any = AutoModel
    with quiet():
        try:
            model = builder.from_config(AutoConfig.for_model(model_type, **values), trust_remote_code=False)
        except (ValueError, KeyError) as error:
            raise UserError(
                f"the checkpoint's encoder is a {model_type!r}, which the installed transformers does not know",
                remedy="install the version of transformers that the checkpoint's summary names",
            ) from error
    return _adapted(model.to(torch.float32))


def _adapted(model: Any) -> nn.Module:
    """Keep what turns tokens into last hidden states."""
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # acts after the hidden states; without a loss its weights would only confuse
    model.config.use_cache = False
    encoder: nn.Module = model
    return encoder


def plain_config(config: Any) -> dict[str, Any]:
    """Return a transformers configuration as plain containers, without what names code or files."""
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in plain.items() if not key.startswith("_") and key not in _NOT_IN_STATE}


def hidden_width(config: Any) -> int:
    """Return the width of the last hidden states."""
    return int(config.hidden_size)


def longest_input(config: Any) -> int | None:
    """Return how many tokens the position table allows, or ``None`` where there is no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        return None
    if config.model_type in _OFFSET_POSITIONS:
        limit -= (config.pad_token_id or 0) + 1
    return int(limit)


def load_tokenizer(source: PretrainedSource, max_length: int) -> TextTokenizer:
    """Read the tokenizer of ``source``; a model without a padding token pads with its end token.

    Raises:
        UserError: it cannot be read.
    """
    from transformers import AutoTokenizer

    with _reading(source):
        if source.tokenizer == "smiles":
            return smiles_vocabulary_tokenizer(source.folder / "vocab.txt", max_length)
        options = source.options()
        if source.lowercase is not None:
            options["do_lower_case"] = source.lowercase
        if source.model_type is not None:
            options["config"] = load_config(source)
        tokenizer: Any = AutoTokenizer.from_pretrained(source.folder, **options)
        if not tokenizer.is_fast:
            raise ValueError("its tokenizer has no fast form")
        pad = tokenizer.pad_token_id
        pad = tokenizer.eos_token_id if pad is None else pad
        return TextTokenizer(tokenizer.backend_tokenizer.to_str(), 0 if pad is None else pad, max_length)
