"""A language model about to be trained on crystals or defects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crystalfm.models.language.build import language_model
from crystalfm.models.language.settings import settings_from_node
from crystalfm.run.build import build_language_module
from crystalfm.run.checkpoints.payload import LANGUAGE, make_payload
from crystalfm.run.language.defects import defect_text_settings, prepare_defects
from crystalfm.run.language.prepare import (
    holds_defects,
    known_conditions,
    language_dataset,
    prepare_language,
    text_settings,
)
from crystalfm.run.network import build_datamodule
from crystalfm.run.trainer_session import TrainerSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from omegaconf import DictConfig
    from rich.console import Console

    from crystalfm.assets.store import AssetStore
    from crystalfm.models.language.build import BuiltLanguageModel
    from crystalfm.run.folder import RunFolder
    from crystalfm.run.prepare import PreparedData


def build_language(cfg: DictConfig, store: AssetStore) -> tuple[BuiltLanguageModel, PreparedData, dict[str, Any]]:
    """Build the language model, and word the data for its tokenizer.

    Args:
        cfg: configuration of a ``CrystalLLM``.
        store: where data and weights come from.

    Returns:
        the model, the data, and the state of the wording for the checkpoints.
    """
    dataset = language_dataset(cfg, store)
    settings = settings_from_node(cfg.llm)
    if holds_defects(dataset):
        changes = defect_text_settings(cfg.model, cfg.answer, dataset)
        built = language_model(settings, changes.prompts, store)
        return built, prepare_defects(cfg, dataset, changes, built.tokenizer), changes.prompts.state()
    texts = text_settings(cfg.model, known_conditions(dataset))
    built = language_model(settings, texts.prompts, store)
    prepared = prepare_language(cfg, dataset, texts, built.tokenizer)
    return built, prepared, texts.prompts.state()


class LanguageSession(TrainerSession):
    """Trains a language model with Lightning.

    Args:
        cfg: configuration.
        config: the same, resolved, as it goes into the checkpoints.
        built: the language model.
        prompts: state of the wording.
        prepared: data.
        folder: run folder.
        console: where progress is shown.
    """

    def __init__(
        self,
        cfg: DictConfig,
        config: Mapping[str, Any],
        built: BuiltLanguageModel,
        prompts: Mapping[str, Any],
        prepared: PreparedData,
        folder: RunFolder,
        console: Console,
    ) -> None:
        architecture = {**built.architecture, "prompts": dict(prompts)}
        module = build_language_module(cfg, built.model)
        super().__init__(
            cfg,
            prepared,
            folder,
            console,
            module=module,
            datamodule=build_datamodule(cfg, prepared),
            payload=make_payload(LANGUAGE, config, prepared, architecture=architecture),
        )
        self.module = module
