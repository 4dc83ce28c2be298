"""Language models that write crystals: built for a training, saved in a checkpoint, rebuilt from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from crystalfm.contracts import UserError
from crystalfm.encoders.pretrained import plain_config, quiet
from crystalfm.generation.wording import tokenizer_of
from crystalfm.models.language.adapters import add_adapters
from crystalfm.models.language.settings import (
    LanguageModelSettings,
    PretrainedLanguageSettings,
    TinySettings,
    settings_from_state,
)
from crystalfm.models.language.tokens import add_padding, restore_tokenizer, tokenizer_state
from crystalfm.models.language.weights import BaseWeights, WeightStore, base_weights, load_causal_model, load_tokenizer
from crystalfm.models.pretrained import freeze_weights, set_dropout, truncate_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from crystalfm.generation.wording import AnyPrompts

MAX_POSITIONS = 4096
"""Longest text of a model from scratch in tokens; rotary positions cost no weights."""


@dataclass(frozen=True)
class BuiltLanguageModel:
    """A language model and what belongs to it.

    Attributes:
        model: causal language model of transformers, wrapped by peft where it has adapters.
        tokenizer: its fast tokenizer, with padding and end-of-sequence tokens.
        architecture: plain containers for a checkpoint: with the weights that `names_to_save` names,
            `restore_language_model` rebuilds all of this from them.
    """

    model: Any
    tokenizer: Any
    architecture: dict[str, Any]


def language_model(settings: LanguageModelSettings, prompts: AnyPrompts, store: WeightStore) -> BuiltLanguageModel:
    """Build a language model for training; it is in training mode.

    Weights from scratch and adapters are drawn from torch's global generator.

    Args:
        settings: what to build.
        prompts: wording of prompts and answers, which decides the tokens of a model from scratch.
        store: where pretrained weights come from.

    Raises:
        UserError: an asset, a file or an optional package is missing or does not fit.
    """
    if isinstance(settings, TinySettings):
        tokenizer = tokenizer_of(prompts)
        model = _from_scratch(settings, tokenizer)
        base = None
    else:
        known = _pretrained(settings)
        base = base_weights(store, known.changes.asset, known.gguf_file)
        tokenizer = load_tokenizer(base)
        model = _adapted(_loaded(base, known, tokenizer), known)
    model.train()  # from_pretrained leaves it in evaluation mode, and the trainer keeps what it finds
    return BuiltLanguageModel(model, tokenizer, _architecture(settings, model, tokenizer, base))


def _pretrained(settings: LanguageModelSettings) -> PretrainedLanguageSettings:
    if not isinstance(settings, PretrainedLanguageSettings):
        raise TypeError(f"settings of an unknown kind: {type(settings).__name__}")
    return settings


def _from_scratch(settings: TinySettings, tokenizer: Any) -> Any:
    """Return a LLaMA with fresh weights: N(0, 0.02²), what writes to the residual stream by 1/√(2 layers) smaller."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=max(int(settings.width * settings.mlp_ratio), 1),
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        max_position_embeddings=MAX_POSITIONS,
        attention_dropout=settings.dropout,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    builder: Any = AutoModelForCausalLM
    model = builder.from_config(config, attn_implementation="sdpa")
    scale = (2 * settings.num_layers) ** -0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(scale)
    return model


def _loaded(base: BaseWeights, settings: PretrainedLanguageSettings, tokenizer: Any) -> Any:
    changes = settings.changes
    dtype = getattr(torch, changes.weights_dtype)
    model = load_causal_model(base, dtype=dtype, quantization=changes.quantization)
    if changes.num_layers is not None:
        truncate_layers(model.base_model, changes.num_layers)
    add_padding(model, tokenizer)
    return model


def _adapted(model: Any, settings: PretrainedLanguageSettings) -> Any:
    """Apply everything that weights alone do not say."""
    changes = settings.changes
    if changes.dropout is not None:
        set_dropout(model, changes.dropout)
    if changes.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if changes.lora_rank is not None:
        model = add_adapters(model, changes, changes.lora_rank)
    freeze_weights(model, changes.trained_part)
    return model


def _architecture(
    settings: LanguageModelSettings, model: Any, tokenizer: Any, base: BaseWeights | None
) -> dict[str, Any]:
    config = plain_config(model.config)
    config.pop("transformers_version", None)
    return {
        "kind": "language",
        "settings": settings.state(),
        "config": config,
        "tokenizer": tokenizer_state(tokenizer),
        "base": None if base is None else {"asset": base.asset, "sha256": base.sha256},
    }


def names_to_save(model: Any) -> frozenset[str]:
    """Return which keys of a model's state dict a checkpoint needs.

    These are all of them where the model's own weights learn; otherwise the adapters (and norms) that do, as the
    frozen rest lies in the asset.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    return frozenset(trained if frozen else model.state_dict())


def weights_to_save(model: Any) -> dict[str, Tensor]:
    """Return the part of a model's state dict that a checkpoint needs; see `names_to_save`."""
    names = names_to_save(model)
    return {key: value for key, value in model.state_dict().items() if key in names}


def restore_language_model(
    architecture: Mapping[str, Any], weights: Mapping[str, Tensor], store: WeightStore
) -> BuiltLanguageModel:
    """Rebuild a trained language model without the configuration of its training; it is in evaluation mode.

    Args:
        architecture: what the training's `BuiltLanguageModel` had.
        weights: what `weights_to_save` returned.
        store: where the frozen weights come from; a model that was trained whole needs none of it.

    Raises:
        UserError: the asset's weights are not those of the training, or ``weights`` do not fit.
    """
    settings = settings_from_state(architecture["settings"])
    tokenizer = restore_tokenizer(architecture["tokenizer"])
    if isinstance(settings, PretrainedLanguageSettings) and settings.keeps_base:
        base = base_weights(store, settings.changes.asset, settings.gguf_file)
        _require_same(base, architecture["base"])
        model = _adapted(_loaded(base, settings, tokenizer), settings)
    else:
        model = _empty(architecture["config"], settings)
        if isinstance(settings, PretrainedLanguageSettings):
            model = _adapted(model, settings)
    load_saved_weights(model, weights)
    model.eval()
    return BuiltLanguageModel(model, tokenizer, dict(architecture))


def load_saved_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Load what `weights_to_save` returned into a model of the same architecture.

    Raises:
        UserError: names or shapes differ.
    """
    expected = names_to_save(model)
    wrong = sorted(expected ^ set(weights))
    if wrong:
        raise UserError(
            f"the weights do not fit the language model: {len(wrong)} names differ, such as {wrong[0]}",
            remedy="the checkpoint is of another version or damaged; use another one",
        )
    try:
        model.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        raise UserError(
            f"the weights do not fit the language model: {error}", remedy="the checkpoint is damaged; use another one"
        ) from error


def _empty(config: Mapping[str, Any], settings: LanguageModelSettings) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(config)
    dtype = settings.changes.weights_dtype if isinstance(settings, PretrainedLanguageSettings) else "float32"
    builder: Any = AutoModelForCausalLM
    with quiet():
        return builder.from_config(
            AutoConfig.for_model(values.pop("model_type"), **values),
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
        )


def _require_same(base: BaseWeights, trained: Mapping[str, str]) -> None:
    if base.sha256 != trained["sha256"]:
        raise UserError(
            f"the adapters were trained on other weights than those of asset '{base.asset}' at hand\n"
            f"  trained on sha256 {trained['sha256']}\n  found      sha256 {base.sha256}",
            remedy="put the weights of the training into the mirror or the cache",
        )
