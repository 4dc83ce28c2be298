"""A trained generator as a folder that transformers or peft reads without this framework."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import crystalfm
from crystalfm.assets.registry import ASSETS
from crystalfm.contracts import UserError
from crystalfm.encoders.pretrained import quiet
from crystalfm.generation.defects.prompts import example_prompt
from crystalfm.generation.prompts import PromptSettings, generation_prompt
from crystalfm.io.checkpoints import WRITER_FILE
from crystalfm.io.files import write_json, write_text
from crystalfm.models.language.adapters import merge_adapters, save_adapters
from crystalfm.run.exporting.stage import staged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from crystalfm.assets.registry import Asset
    from crystalfm.generation.writer import CrystalWriter
    from crystalfm.run.checkpoints.payload import SavedModel

_HUB_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "Llama 2 Community License": "llama2"}
_HUB_LICENCES["Meta Llama 3 Community License"] = "llama3"


@dataclass(frozen=True)
class Origin:
    """Where a generator comes from, for its card.

    Attributes:
        base: asset it was fine-tuned from, or ``None`` for one from scratch.
        base_sha256: checksum of that asset's weights, or ``None``.
        data: name of the data set it was trained on.
        adapters_alone: whether only adapters were trained, so that they say everything.
    """

    base: str | None = None
    base_sha256: str | None = None
    data: str = "crystals"
    adapters_alone: bool = True

    @classmethod
    def of(cls, saved: SavedModel) -> Origin:
        """Return the origin of a checkpoint's model."""
        architecture = saved.architecture or {}
        base = architecture.get("base") or {}
        trainable = architecture.get("settings", {}).get("trainable")
        return cls(base.get("asset"), base.get("sha256"), saved.data["name"], trainable in {None, "none"})

    @property
    def asset(self) -> Asset | None:
        """The registry's entry of the base, where it has one."""
        return None if self.base is None else ASSETS.get(self.base)

    @property
    def base_name(self) -> str | None:
        """How others know the base: its repository in the hub, or the asset's name."""
        asset = self.asset
        return self.base if asset is None or asset.hub is None else asset.hub.repo


def export_writer(writer: CrystalWriter, folder: Path, origin: Origin, *, adapter: bool = False) -> Path:
    """Write a generator as a folder in Hugging Face format, or its adapters in peft's.

    ``config.json``, weights (safetensors), tokenizer, a card, and ``crystalfm.json`` with the wording of prompts. The
    folder appears when it is complete. Adapters are merged into the writer's model, which is changed by that.

    Args:
        writer: the generator.
        folder: a new or empty folder.
        origin: where it comes from.
        adapter: write the adapters alone.

    Returns:
        ``folder``.

    Raises:
        UserError: the folder is taken, the model has no adapters to write alone, or they cannot be merged.
    """
    if adapter and not origin.adapters_alone:
        raise UserError(
            "the adapters alone are not the model: norms of the base were trained too (llm.trainable=norms)",
            remedy="adapter=false",
        )
    with staged(folder) as stage:
        _write(writer, stage, origin, adapter=adapter)
    return folder


def _write(writer: CrystalWriter, folder: Path, origin: Origin, *, adapter: bool) -> None:
    tokenizer = writer.tokenizer
    with quiet():
        if adapter:
            save_adapters(writer.model, folder, base_name=origin.base_name)
        else:
            model = merge_adapters(writer.model)
            for config in (model.config, model.generation_config):
                config.bos_token_id = tokenizer.bos_token_id
                config.eos_token_id = tokenizer.eos_token_id
                config.pad_token_id = tokenizer.pad_token_id
            model.save_pretrained(folder)
            _name_rotation_as_before(folder / "config.json")
        tokenizer.save_pretrained(folder)
    _replace_keys(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    state: dict[str, Any] = {
        "version": crystalfm.__version__,
        "prompts": writer.prompts.state(),
        "base": None if origin.base is None else {"asset": origin.base, "sha256": origin.base_sha256},
    }
    write_json(folder / WRITER_FILE, state)
    write_text(folder / "README.md", card(writer, origin, adapter=adapter))


def _name_rotation_as_before(path: Path) -> None:
    """Say the base of rotary positions under the key that transformers 4 reads too, which would take 10,000 else."""
    rotation = json.loads(path.read_text(encoding="utf-8")).get("rope_parameters") or {}
    if "rope_theta" in rotation:
        keys: dict[str, Any] = {"rope_theta": rotation["rope_theta"]}
        if rotation.get("rope_type", "default") != "default":
            keys["rope_scaling"] = {key: value for key, value in rotation.items() if key != "rope_theta"}
        _replace_keys(path, keys)


def _replace_keys(path: Path, keys: Mapping[str, Any]) -> None:
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **keys})


def card(writer: CrystalWriter, origin: Origin, *, adapter: bool) -> str:
    """Return the model card in Markdown, with the front matter that the hub reads."""
    asset = origin.asset
    lines = ["---", f"library_name: {'peft' if adapter else 'transformers'}", "pipeline_tag: text-generation"]
    if asset is not None:
        known = _HUB_LICENCES.get(asset.licence)
        lines += [f"license: {known}"] if known else ["license: other", f"license_name: {asset.licence}"]
        lines += [f"base_model: {asset.hub.repo}"] if asset.hub is not None else []
    lines += ["tags:", "- materials-science", "- crystal-structure-generation", "---", ""]
    kind = "Low-rank adapters of a language model" if adapter else "A language model"
    written = "crystals" if isinstance(writer.prompts, PromptSettings) else "defects of layers"
    lines += [f"# Generator of {written}", "", f"{kind} that writes {written} as text, trained on `{origin.data}` with"]
    lines += [f"crystalfm {crystalfm.__version__}.", "", "## Base and licence", "", *_licence(origin)]
    lines += ["", "## Use", "", "```python", *_example(writer, origin, adapter=adapter), "```", ""]
    lines += [
        f"`generate.py ckpt=FOLDER` of crystalfm reads the merged folder and writes only texts that are {written}.",
        f"The wording of prompts and the format of answers are in `{WRITER_FILE}`. Prompt and answer are tokenized",
        "apart, without special tokens, after the begin-of-sequence token where the tokenizer has one; the",
        "end-of-sequence token ends an answer.",
        "",
    ]
    return "\n".join(lines)


def _licence(origin: Origin) -> list[str]:
    if origin.base is None:
        return ["Trained from scratch: no base model's licence applies, that of the training data does."]
    asset = origin.asset
    if asset is None:
        return [f"Fine-tuned from `{origin.base}`, whose licence applies, beside that of the training data."]
    return [
        f"Fine-tuned from {asset.title} (`{origin.base_name}`).",
        f"Its licence, {asset.licence}, applies, beside that of the training data.",
        "",
        f"- {asset.citation}",
        f"- SHA-256 of the base weights: `{origin.base_sha256}`",
    ]


def _example(writer: CrystalWriter, origin: Origin, *, adapter: bool) -> list[str]:
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    lines.append('tokenizer = AutoTokenizer.from_pretrained("FOLDER")')
    if adapter:
        lines = ["from peft import PeftModel", *lines]
        lines.append(f'base = AutoModelForCausalLM.from_pretrained("{origin.base_name}")')
        lines.append('model = PeftModel.from_pretrained(base, "FOLDER")')
    else:
        lines.append('model = AutoModelForCausalLM.from_pretrained("FOLDER")')
    start = "" if writer.tokenizer.bos_token_id is None else "tokenizer.bos_token + "
    prompts = writer.prompts
    prompt = generation_prompt({}, prompts) if isinstance(prompts, PromptSettings) else example_prompt(prompts)
    lines += [
        f"prompt = {start}{prompt!r}",
        'ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")',
        "written = model.generate(**ids, do_sample=True, max_new_tokens=512)",
        'text = tokenizer.decode(written[0, ids["input_ids"].shape[1]:], skip_special_tokens=True)',
    ]
    return lines
