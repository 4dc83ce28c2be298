"""Pretrained encoders of transformers: frozen behind the embedding cache, or trained with the model."""

from __future__ import annotations

import importlib.metadata
import logging
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from crystalfm.contracts import UserError
from crystalfm.data.features import TokenStore, VectorStore
from crystalfm.encoders import pretrained
from crystalfm.encoders.base import EncoderReport, ModalityEncoder
from crystalfm.encoders.networks import CachedVectors, PretrainedNetwork
from crystalfm.encoders.settings import check_at_least, check_choice, check_version
from crystalfm.encoders.text_tokenizer import TextTokenizer
from crystalfm.encoders.tokenizers import spaced_selfies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from crystalfm.assets.store import AssetStore, FetchedAsset
    from crystalfm.data.features import FeatureStore
    from crystalfm.encoders.cache import EmbeddingCache
    from crystalfm.encoders.networks import EncoderNetwork, Pooling

_log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
"""Arithmetic of a frozen encoder."""

ENCODER_VERSION = 1
"""Raised when the same weights would give other vectors; makes cached vectors stale."""

STATE_VERSION = 1

_CPU_BATCH_TOKENS = 4096
"""Tokens encoded at once on a CPU: activations of more long texts would not stay in its caches."""

_TRANSFORMS: Mapping[str, Callable[[str], str]] = {"none": str, "spaced_selfies": spaced_selfies}


class HuggingFaceEncoder(ModalityEncoder):
    """A pretrained transformer as the encoder of one modality.

    Frozen, it encodes each distinct string once into the embedding cache; its weights are read only when there is
    something new to encode and are freed afterwards. Trainable, its network holds the transformer, and the
    checkpoint holds its configuration and tokenizer, so that the asset is not needed again.

    Args:
        modality: modality it serves (runtime).
        store: asset store that holds the weights (runtime).
        cache: embedding cache (runtime).
        name: name of the encoder's config, for the report (runtime).
        asset: name of the asset, a folder in Hugging Face format.
        pooling: ``cls`` takes the first token's last hidden state, ``mean`` the mean over all real tokens.
        max_length: tokens after which a text is cut, special tokens included; the report counts cut texts.
        frozen: whether the weights stay as they are.
        batch_size: texts encoded at once when frozen.
        gguf_file: name of a GGUF file in the asset to read instead of ``config.json`` and its weights.
        model_type: architecture, where the asset's ``config.json`` does not say.
        tokenizer: ``auto`` for the asset's own, ``smiles`` for atom-wise SMILES tokens looked up in ``vocab.txt``.
        lowercase: overrides the lower-casing of a tokenizer that comes as ``vocab.txt`` alone.
        text_transform: ``spaced_selfies`` puts blanks between SELFIES symbols.
        normalize: scale vectors to unit length.
        precision: arithmetic of a frozen encoder; ``auto`` is bfloat16 on a GPU and float32 elsewhere. Vectors of
            different precision are different cache entries.
        storage: type in which a frozen encoder's vectors are cached.
        gradient_checkpointing: recompute activations of a trained encoder in the backward pass to save memory.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        modality: str,
        store: AssetStore,
        cache: EmbeddingCache,
        asset: str,
        name: str = "",
        pooling: Literal["cls", "mean"] = "mean",
        max_length: int = 512,
        frozen: bool = True,
        batch_size: int = 64,
        gguf_file: str | None = None,
        model_type: str | None = None,
        tokenizer: Literal["auto", "smiles"] = "auto",
        lowercase: bool | None = None,
        text_transform: Literal["none", "spaced_selfies"] = "none",
        normalize: bool = False,
        precision: Literal["auto", "float32", "bfloat16"] = "float32",
        storage: Literal["float32", "float16"] = "float32",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(modality)
        check_choice(modality, "pooling", pooling, ("cls", "mean"))
        check_choice(modality, "tokenizer", tokenizer, ("auto", "smiles"))
        check_choice(modality, "text_transform", text_transform, tuple(_TRANSFORMS))
        check_choice(modality, "precision", precision, ("auto", "float32", "bfloat16"))
        check_choice(modality, "storage", storage, ("float32", "float16"))
        check_at_least(modality, "max_length", max_length, 3)
        check_at_least(modality, "batch_size", batch_size, 1)
        self._store = store
        self._cache = cache
        self._asset = asset
        self._name = name or asset
        self._pooling: Pooling = pooling
        self._max_length = max_length
        self._frozen = frozen
        self._batch_size = batch_size
        self._reading: dict[str, Any] = {
            "gguf_file": gguf_file, "model_type": model_type, "tokenizer": tokenizer, "lowercase": lowercase,
        }  # fmt: skip
        self._text_transform = text_transform
        self._normalize = normalize
        half = precision == "bfloat16" or (precision == "auto" and torch.cuda.is_available())
        self._precision = "bfloat16" if half else "float32"
        self._storage = storage
        self._gradient_checkpointing = gradient_checkpointing
        self._fetched: FetchedAsset | None = None
        self._state: dict[str, Any] | None = None
        self._restored = False
        self._report = EncoderReport(modality, self._name, frozen=frozen, width=0)

    def prepare(self, values: Sequence[str | None]) -> FeatureStore:
        """Return cached vectors of every row when frozen, token ids otherwise.

        Raises:
            UserError: the asset is missing, cannot be read, or is not the one a checkpoint was made with.
        """
        present = np.array([value is not None for value in values], dtype=bool)
        strings = [value for value in values if value is not None]
        return self._vectors(strings, present) if self._frozen else self._tokens(strings, present)

    # ------------------------------------------------------------------ frozen

    def identity(self) -> dict[str, Any]:
        """Return all that determines a vector besides its text: the key of the embedding cache."""
        return {
            "encoder": "huggingface",
            "version": ENCODER_VERSION,
            "transformers": importlib.metadata.version("transformers").split(".")[0],
            "asset": self._asset,
            "asset_sha256": self._fetch().sha256,
            **self._reading,
            "text_transform": self._text_transform,
            "max_length": self._max_length,
            "pooling": self._pooling,
            "normalize": self._normalize,
            "precision": self._precision,
        }

    def _vectors(self, strings: list[str], present: NDArray[np.bool_]) -> VectorStore:
        identity = self.identity()
        if self._restored and self._state is not None:
            self._check_asset(self._state, str(identity["asset_sha256"]))
        worker = _FrozenWorker(self)
        # Reading the width would import transformers; with any string the cache knows it.
        width = None if strings else pretrained.hidden_width(pretrained.load_config(self.source()))
        lookup = self._cache.vectors(identity, strings, worker.encode, width, dtype=self._storage)
        if worker.num_cut:
            self._report.notes.append(
                f"{worker.num_cut} of {lookup.misses} new strings cut at {self._max_length} tokens"
            )
        self._report.cache_hits, self._report.cache_misses = lookup.hits, lookup.misses
        if lookup.reason:
            self._report.notes.append(lookup.reason)
        self._remember_frozen(lookup.vectors.shape[1])
        index = np.zeros(len(present), dtype=np.int64)
        index[present] = lookup.index
        vectors = cast("NDArray[Any]", lookup.vectors)
        return VectorStore(self.modality, present, vectors, index, "embedding")

    def _check_asset(self, state: Mapping[str, Any], sha256: str) -> None:
        if state["asset_sha256"] != sha256:
            raise UserError(
                f"asset '{self._asset}' is not the one the checkpoint was trained with: content "
                f"{sha256[:12]}, trained with {str(state['asset_sha256'])[:12]}",
                remedy="point paths.mirror at the files of the training run",
            )

    # --------------------------------------------------------------- trainable

    def _tokens(self, strings: list[str], present: NDArray[np.bool_]) -> TokenStore:
        state = self._trainable_state()
        tokenizer = TextTokenizer(state["tokenizer"], state["pad_token_id"], state["max_length"])
        rows, num_cut = tokenizer.encode(self.transformed(strings))
        lengths = np.zeros(len(present), dtype=np.int64)
        lengths[present] = [len(row) for row in rows]
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        flat = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(offsets[-1]))
        if num_cut:
            self._report.notes = [f"{num_cut} strings cut at {self._max_length} tokens"]
        return TokenStore(self.modality, present, flat, offsets, tokenizer.pad_token_id)

    def _trainable_state(self) -> dict[str, Any]:
        if self._state is None:
            config = pretrained.load_config(self.source())
            tokenizer = self.load_tokenizer(config)
            self._remember(
                {
                    "frozen": False,
                    "width": pretrained.hidden_width(config),
                    "config": pretrained.plain_config(config),
                    "tokenizer": tokenizer.definition,
                    "pad_token_id": tokenizer.pad_token_id,
                    "max_length": self._max_length,
                }
            )
        return self._state or {}

    # ------------------------------------------------------------------ shared

    def _fetch(self) -> FetchedAsset:
        if self._fetched is None:
            self._fetched = self._store.fetch(self._asset)
        return self._fetched

    def source(self) -> pretrained.PretrainedSource:
        """Return where the asset's files lie and how they are to be read."""
        return pretrained.PretrainedSource(self._asset, self._fetch().folder, **self._reading)

    def token_rows(self, strings: Sequence[str]) -> list[list[int]]:
        """Return (N,) the tokens of each string that the model sees, its special tokens included."""
        tokenizer = self.load_tokenizer(pretrained.load_config(self.source()))
        rows, _ = tokenizer.encode(self.transformed(strings))
        return rows

    def transformed(self, strings: Sequence[str]) -> list[str]:
        """Return the strings as the tokenizer wants them."""
        transform = _TRANSFORMS[self._text_transform]
        return [transform(string) for string in strings]

    def load_tokenizer(self, config: Any) -> TextTokenizer:
        """Read the asset's tokenizer and check that it and the settings go with the model.

        Raises:
            UserError: ``max_length`` is beyond the model's positions, or there is no class token to pool.
        """
        limit = pretrained.longest_input(config)
        if limit is not None and self._max_length > limit:
            raise UserError(
                f"encoders.{self.modality}.max_length={self._max_length}, but '{self._asset}' has {limit} positions",
                remedy=f"use encoders.{self.modality}.max_length={limit} or less",
            )
        tokenizer = pretrained.load_tokenizer(self.source(), self._max_length)
        if self._pooling == "cls" and not tokenizer.has_class_token():
            raise UserError(
                f"encoders.{self.modality}.pooling=cls needs a class token in front, and '{self._asset}' puts none",
                remedy=f"use encoders.{self.modality}.pooling=mean",
            )
        return tokenizer

    def wrap(self, model: torch.nn.Module, width: int) -> PretrainedNetwork:
        """Return the network that pools ``model``'s hidden states as the settings say."""
        return PretrainedNetwork(self.modality, model, width=width, pooling=self._pooling, normalize=self._normalize)

    @property
    def batch_size(self) -> int:
        """Texts encoded at once when frozen."""
        return self._batch_size

    @property
    def precision(self) -> str:
        """Arithmetic of a frozen encoder, ``float32`` or ``bfloat16``."""
        return self._precision

    def compute_in(self, precision: Precision) -> None:
        """Let a frozen encoder compute in another arithmetic from here on; its vectors are other cache entries."""
        self._precision = precision

    def build_network(self) -> EncoderNetwork:
        """Return the passage of cached vectors when frozen; otherwise the transformer.

        The transformer's weights are those of the asset, or untrained after ``load_state``: a checkpoint's
        weights come after.
        """
        if self._frozen:
            return CachedVectors(self.modality, int(self._frozen_state()["width"]))
        state = self._trainable_state()
        model = pretrained.empty_encoder(state["config"]) if self._restored else self._pretrained_model()
        if self._gradient_checkpointing:
            control: Any = model
            control.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return self.wrap(model.train(), int(state["width"]))

    def _pretrained_model(self) -> torch.nn.Module:
        source = self.source()
        return pretrained.load_encoder(source, pretrained.load_config(source))

    def _frozen_state(self) -> dict[str, Any]:
        if self._state is None:
            self._remember_frozen(pretrained.hidden_width(pretrained.load_config(self.source())))
        return self._state or {}

    def _remember_frozen(self, width: int) -> None:
        fetched = self._fetch()
        self._remember({"frozen": True, "width": width, "asset": fetched.name, "asset_sha256": fetched.sha256})

    def _remember(self, state: dict[str, Any]) -> None:
        self._state = {"version": STATE_VERSION, **state}
        self._report.width = int(state["width"])

    def state(self) -> dict[str, Any]:
        """Return the width and the asset's hash when frozen; otherwise configuration and tokenizer as well."""
        return dict(self._frozen_state() if self._frozen else self._trainable_state())

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what a checkpoint holds; a trainable encoder does not need its asset from here on.

        Raises:
            UserError: the state is of another version, or frozen where the settings say trainable or vice versa.
        """
        check_version(self.modality, "encoder", state, STATE_VERSION)
        if state["frozen"] != self._frozen:
            raise UserError(
                f"encoders.{self.modality}.frozen={self._frozen}, the checkpoint was trained with {state['frozen']}",
                remedy="leave the encoder's settings to the checkpoint",
            )
        self._state = dict(state)
        self._restored = True
        self._report.width = int(state["width"])

    def report(self) -> EncoderReport:
        """Describe the encoder; hits and misses count distinct strings."""
        return self._report


class _FrozenWorker:
    """Encodes what the cache does not have; reads the weights at the first call and dies with them."""

    def __init__(self, encoder: HuggingFaceEncoder) -> None:
        self._encoder = encoder
        self._network: PretrainedNetwork | None = None
        self._tokenizer: TextTokenizer | None = None
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.num_cut = 0

    def _load(self) -> tuple[PretrainedNetwork, TextTokenizer]:
        if self._network is None or self._tokenizer is None:
            source = self._encoder.source()
            config = pretrained.load_config(source)
            self._tokenizer = self._encoder.load_tokenizer(config)
            model = pretrained.load_encoder(source, config)
            network = self._encoder.wrap(model, pretrained.hidden_width(config))
            self._network = network.to(self._device).eval().requires_grad_(requires_grad=False)
            _log.info("loaded %s on %s to encode new strings", source.asset, self._device)
        return self._network, self._tokenizer

    def _batch_rows(self, longest: int) -> int:
        """Return how many texts to encode at once; on a CPU so few that a layer's activations fit its caches."""
        size = self._encoder.batch_size
        return size if self._device.type != "cpu" else max(1, min(size, _CPU_BATCH_TOKENS // longest))

    def encode(self, strings: list[str]) -> NDArray[np.float32]:
        """Return the vectors (n, D) of ``strings``, batched by length."""
        network, tokenizer = self._load()
        rows, num_cut = tokenizer.encode(self._encoder.transformed(strings))
        self.num_cut += num_cut
        vectors = np.empty((len(rows), network.width), dtype=np.float32)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]), reverse=True)
        cast_to_half = torch.autocast(self._device.type, torch.bfloat16, enabled=self._encoder.precision == "bfloat16")
        with torch.inference_mode(), cast_to_half:
            start = 0
            while start < len(order):
                chosen = order[start : start + self._batch_rows(len(rows[order[start]]))]
                start += len(chosen)
                tokens, mask = _padded([rows[row] for row in chosen], tokenizer.pad_token_id)
                pooled = network.encode(tokens.to(self._device), mask.to(self._device))
                vectors[chosen] = pooled.float().cpu().numpy()
        return vectors


def _padded(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids (B, L) padded on the right, and the mask (B, L) of real tokens."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.full(mask.shape, pad_token_id, dtype=torch.int64)
    tokens[mask] = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    return tokens, mask
