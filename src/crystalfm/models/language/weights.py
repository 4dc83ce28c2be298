"""Pretrained causal language models on disk: which files they are, GGUF made into safetensors once, reading them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from crystalfm.assets.content import HashMemo, content_hash
from crystalfm.assets.errors import storage_errors
from crystalfm.contracts import UserError
from crystalfm.encoders.pretrained import plain_config, quiet
from crystalfm.io.files import file_lock, fsync_folder, write_json
from crystalfm.models.language.quantization import keep_packing, packing

if TYPE_CHECKING:
    from collections.abc import Iterator

CONVERSION_VERSION = 1
"""Raised when a conversion gives other files; older ones are then made again."""

_DONE = "conversion.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_ID_DIGITS = 16


class _FetchedAsset(Protocol):
    @property
    def folder(self) -> Path: ...


class WeightStore(Protocol):
    """What a language model needs of the asset store."""

    @property
    def cache(self) -> Path:
        """Folder of cached copies, where conversions are kept too."""
        ...

    def fetch(self, name: str) -> _FetchedAsset:
        """Return a complete, verified asset."""
        ...


@dataclass(frozen=True)
class BaseWeights:
    """Pretrained weights that transformers can read.

    Attributes:
        asset: name of the asset.
        folder: folder in Hugging Face format.
        sha256: of the asset's file of weights, or over the names and checksums of several.
    """

    asset: str
    folder: Path
    sha256: str


def base_weights(store: WeightStore, asset: str, gguf_file: str | None) -> BaseWeights:
    """Return the weights of an asset, a GGUF file converted on its first use.

    Args:
        store: asset store.
        asset: name of the asset.
        gguf_file: GGUF file in it, or ``None`` for a folder in Hugging Face format.

    Raises:
        UserError: a file is missing or cannot be read, or the cache cannot be written.
    """
    folder = store.fetch(asset).folder
    wanted = gguf_file or "config.json"
    names = [gguf_file] if gguf_file is not None else _weight_files(folder)
    if not names or not (folder / wanted).is_file():
        raise UserError(
            f"asset '{asset}' has no file {wanted if names else 'model.safetensors'} in {folder}",
            remedy="it needs config.json, weights and a tokenizer (Hugging Face format), or llm.gguf_file",
        )
    records = HashMemo(store.cache / "assets" / ".weights", folder).records(names)
    sha256 = records[names[0]].sha256 if len(names) == 1 else content_hash(records)
    if gguf_file is not None:
        folder = _converted(folder / gguf_file, asset, store.cache / "assets" / ".converted", sha256)
    return BaseWeights(asset, folder, sha256)


def _weight_files(folder: Path) -> list[str]:
    for pattern in _WEIGHTS:
        names = sorted(path.name for path in folder.glob(pattern))
        if names:
            return names
    return []


def _converted(gguf: Path, asset: str, root: Path, sha256: str) -> Path:
    """Return a folder in Hugging Face format made of a GGUF file; a second call, and a second process, find it."""
    target = root / f"{sha256[:_ID_DIGITS]}-{CONVERSION_VERSION}"
    if _is_whole(target):
        return target
    if importlib.util.find_spec("gguf") is None:
        raise UserError("reading a GGUF file needs the package gguf", remedy="pip install gguf")
    with storage_errors(root), file_lock(target):
        if _is_whole(target):  # another process was faster
            return target
        with tempfile.TemporaryDirectory(dir=root, prefix=".converting-", ignore_cleanup_errors=True) as name:
            stage = Path(name) / "model"
            _convert(gguf, asset, stage)
            sizes = {path.name: path.stat().st_size for path in stage.iterdir()}
            write_json(stage / _DONE, {"source": gguf.name, "sha256": sha256, "sizes": sizes})
            if target.exists():  # damaged
                shutil.rmtree(target)
            stage.replace(target)
            fsync_folder(root)
    return target


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _DONE).read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _convert(gguf: Path, asset: str, stage: Path) -> None:
    import transformers

    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    reader: Any = transformers.AutoModelForCausalLM
    unpacking: Any = getattr(transformers, "GgufConfig", None)  # newer versions leave weights packed where they can
    unpacked = {} if unpacking is None else {"quantization_config": unpacking(dequantize=True)}
    with _reading(asset, gguf.parent):
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **options)
        model, report = reader.from_pretrained(
            gguf.parent, dtype=torch.float32, output_loading_info=True, **options, **unpacked
        )
        _require_complete(report, asset, gguf.parent)
        # A model that came from packed weights refuses to be saved; a fresh one of the same shape does not.
        config = transformers.AutoConfig.for_model(**plain_config(model.config))
        plain = reader.from_config(config, dtype=torch.float32)
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(stage)
        tokenizer.save_pretrained(stage)


def load_tokenizer(base: BaseWeights) -> Any:
    """Read the fast tokenizer of pretrained weights.

    Raises:
        UserError: it cannot be read, has no fast form or no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    with _reading(base.asset, base.folder):
        tokenizer: Any = AutoTokenizer.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)
        if not tokenizer.is_fast:
            raise ValueError("its tokenizer has no fast form")
        if tokenizer.eos_token_id is None:
            raise ValueError("its tokenizer has no end-of-sequence token")
    return tokenizer


def load_causal_model(
    base: BaseWeights, *, dtype: torch.dtype, quantization: Literal["8bit", "4bit"] | None = None
) -> Any:
    """Read a causal language model; nothing is downloaded and no code of the folder is run.

    Args:
        base: where its files lie.
        dtype: type in which its weights are held, and in which quantised ones compute.
        quantization: hold the linear layers but the head in so many bits (4: NF4), through bitsandbytes.

    Raises:
        UserError: the files cannot be read or lack weights, or bitsandbytes is missing.
    """
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {} if quantization is None else {"quantization_config": packing(quantization, dtype)}
    reader: Any = AutoModelForCausalLM
    with _reading(base.asset, base.folder):
        model, report = reader.from_pretrained(
            base.folder,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    _require_complete(report, base.asset, base.folder)
    keep_packing(model)
    return model


def _require_complete(report: Any, asset: str, folder: Path) -> None:
    wrong = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if wrong:  # transformers would go on with random values
        raise UserError(
            f"the weights of asset '{asset}' in {folder} lack {len(wrong)} tensors: {', '.join(wrong[:3])}",
            remedy="the files do not belong to this config.json; fetch the asset again or mend the mirror",
        )


@contextmanager
def _reading(asset: str, folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    with quiet(), ExitStack() as stack:
        # The progress bar of GGUF heeds no switch; logging and errors do not come this way.
        stack.enter_context(redirect_stderr(StringIO()))
        try:
            yield
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise UserError(
                f"asset '{asset}' in {folder} cannot be read: {error}",
                remedy="fetch it again (python -m crystalfm.fetch) or mend the mirror",
            ) from error
