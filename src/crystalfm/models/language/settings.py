"""Settings of a language model that writes crystals, read from the same group ``llm`` that fusion uses."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from crystalfm.contracts import UserError
from crystalfm.models.backbones import FusionBackbone, PretrainedBackbone, TinyBackbone
from crystalfm.models.pretrained import PretrainedSettings
from crystalfm.models.settings import check_choice, check_range

_KINDS: Mapping[str, type[FusionBackbone]] = {"tiny": TinyBackbone, "pretrained": PretrainedBackbone}


class LanguageModelSettings(ABC):
    """How a language model is built; `settings_from_node` and `settings_from_state` make one."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the settings and ``kind`` as plain containers."""


@dataclass(frozen=True)
class TinySettings(LanguageModelSettings):
    """A LLaMA from scratch over the tokens of crystals.

    ``causal`` of the group ``llm`` is not among them: what writes from left to right is always causal.

    Attributes:
        width: length of the hidden states.
        num_layers: number of blocks.
        num_heads: attention heads; divides ``width`` into even parts, which is what rotary positions need.
        dropout: dropout of the attention's weights.
        mlp_ratio: width of the hidden layer of a block over ``width``.

    Raises:
        UserError: a value is out of range.
    """

    width: int
    num_layers: int
    num_heads: int
    dropout: float
    mlp_ratio: float

    def __post_init__(self) -> None:
        """Check every value."""
        for key, number in (("width", self.width), ("num_layers", self.num_layers), ("num_heads", self.num_heads)):
            check_range(f"llm.{key}", number, low=1)
        check_range("llm.dropout", self.dropout, low=0, high=1, high_open=True)
        check_range("llm.mlp_ratio", self.mlp_ratio, low=0, low_open=True)
        if self.width % (2 * self.num_heads):
            raise UserError(
                f"llm.width={self.width} is no multiple of twice llm.num_heads={self.num_heads}",
                remedy="rotary positions need heads of an even width, such as width 128 with 4 heads",
            )

    def state(self) -> dict[str, Any]:
        """Return the settings and ``kind`` as plain containers."""
        return {"kind": "tiny", **asdict(self)}


@dataclass(frozen=True)
class PretrainedLanguageSettings(LanguageModelSettings):
    """A pretrained causal language model of transformers.

    Attributes:
        changes: what is changed in it; see `PretrainedBackbone` for each setting.
        gguf_file: GGUF file in the asset, or ``None`` for a folder in Hugging Face format.

    Raises:
        UserError: a setting means nothing for a model that writes, or leaves nothing to learn.
    """

    changes: PretrainedSettings
    gguf_file: str | None = None

    def __post_init__(self) -> None:
        """Refuse what only fusion can use, and what cannot learn."""
        changes = self.changes
        if changes.positions != "keep":
            raise UserError(
                f"llm.positions={changes.positions}: a language model that writes needs its own positions",
                remedy="llm.positions=keep",
            )
        if not changes.causal:
            raise UserError(
                "llm.causal=false: a language model that writes sees only what stands before", remedy="llm.causal=true"
            )
        if changes.quantization is not None and changes.lora_rank is None:
            raise UserError(
                f"llm.quantization={changes.quantization}: quantised weights cannot be trained themselves",
                remedy="add adapters (llm.lora_rank=8), or llm.quantization=null",
            )
        if changes.trained_part == "none" and changes.lora_rank is None:
            raise UserError("llm.trainable=none leaves nothing to learn", remedy="llm.trainable=all or llm.lora_rank=8")

    def state(self) -> dict[str, Any]:
        """Return the settings and ``kind`` as plain containers."""
        return {"kind": "pretrained", **self.changes.plain(), "gguf_file": self.gguf_file}

    @property
    def keeps_base(self) -> bool:
        """Whether most weights stay those of the asset, so that a checkpoint need not hold them."""
        return self.changes.trained_part != "all"


def settings_from_node(node: Mapping[Any, Any]) -> LanguageModelSettings:
    """Read the settings of the group ``llm``.

    Args:
        node: ``_target_`` (the backbone of fusion whose settings these are), ``name`` and settings.

    Raises:
        UserError: the target is no language model, or a setting is out of range or means nothing here.
    """
    names = {kind.__name__: key for key, kind in _KINDS.items()}
    target = str(node["_target_"]).rpartition(".")[2]
    check_choice("llm._target_", target, tuple(names))
    values = {str(key): node[key] for key in node if key not in {"_target_", "name"}}
    return settings_from_state({"kind": names[target], **values})


def settings_from_state(state: Mapping[str, Any]) -> LanguageModelSettings:
    """Rebuild settings from what their ``state`` returned; what is absent has its default.

    Raises:
        UserError: the kind is not known, or a setting is out of range or means nothing here.
    """
    kind = str(state.get("kind"))
    check_choice("llm.kind", kind, tuple(_KINDS))
    parameters = inspect.signature(_KINDS[kind]).parameters.values()
    values = {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}
    values |= {key: _plain(value) for key, value in state.items() if key != "kind"}
    if kind == "tiny":
        values.pop("causal")
        return TinySettings(**values)
    gguf_file = values.pop("gguf_file")
    return PretrainedLanguageSettings(PretrainedSettings(**values), gguf_file)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
