"""The generator of crystals (Gruver et al., ICLR 2024) and defects: a causal language model trained on their texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from crystalfm.contracts import batch_key
from crystalfm.models.errors import WeightedMean
from crystalfm.models.language.build import names_to_save
from crystalfm.models.language.scoring import token_losses
from crystalfm.models.trained import TrainedModule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crystalfm.models.settings import OptimizerSettings, SchedulerSettings

_MODALITY = "crystal_text"
_IGNORED = -100


class CrystalLLM(TrainedModule):
    """Learns to continue prompts with crystals; the loss is the mean negative log-likelihood of a learned token.

    Args:
        llm: causal language model of transformers (runtime).
        optimizer: optimizer settings (runtime).
        scheduler: learning-rate settings (runtime).
        length_digits: decimals of cell lengths.
        angle_digits: decimals of cell angles.
        coord_digits: decimals of fractional coordinates.
        conditions: what prompts may ask for; ``None`` for everything the data know.
        max_conditions: most conditions of a training prompt.
        infill_fraction: share of the examples that ask for a hidden element.
        translate: move the atoms of a training example together at random; defects, by a symmetry operation.
        permute: write the atoms of a training example in random order.
        learn: tokens that count for the loss: ``completion`` or ``all``.
        pack_length: tokens of a packed row.
        max_length: crystals with longer texts are rejected.
    """

    def __init__(
        self,
        *,
        llm: nn.Module,
        optimizer: OptimizerSettings,
        scheduler: SchedulerSettings,
        length_digits: int = 1,
        angle_digits: int = 0,
        coord_digits: int = 2,
        conditions: list[str] | None = None,
        max_conditions: int = 4,
        infill_fraction: float = 1 / 3,
        translate: bool = True,
        permute: bool = False,
        learn: Literal["completion", "all"] = "completion",
        pack_length: int = 512,
        max_length: int = 2048,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        # How crystals are worded is the data's matter: ``run.language`` reads it from the same node.
        del length_digits, angle_digits, coord_digits, conditions, max_conditions, infill_fraction, translate, permute
        del learn, pack_length, max_length
        self.network = LanguageNetwork(llm)
        self.strict_loading = False  # what a checkpoint leaves out is checked below
        self._val = WeightedMean()
        self._test = WeightedMean()
        self._val_decided = WeightedMean()
        self._test_decided = WeightedMean()

    @property
    def num_outputs(self) -> int:
        """Four: a text's summed negative log-likelihood and its number of tokens, and both for decided tokens alone."""
        return 4

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out, which lie in the asset that the checkpoint names."""
        kept = self._saved_names()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in kept}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the weights of a checkpoint; what it left out keeps its value.

        Raises:
            RuntimeError: a weight is missing that a checkpoint holds, or one is unknown.
        """
        del strict
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        wrong = [*(self._saved_names() & set(found.missing_keys)), *found.unexpected_keys]
        if wrong:
            raise RuntimeError(f"{len(wrong)} weights do not fit the language model, such as {min(wrong)}")
        return found

    def _saved_names(self) -> set[str]:
        return {f"network.model.{name}" for name in names_to_save(self.network.model)}

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the negative log-likelihood (K,) of every learned token in nats, and the batch's row of each (K,)."""
        tokens, labels, positions, segments = (
            batch[batch_key(_MODALITY, kind)] for kind in ("tokens", "labels", "positions", "segments")
        )
        losses: tuple[Tensor, Tensor] = self.network(tokens, labels, positions, segments)
        return losses

    def training_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean loss of a learned token of the batch."""
        losses: Tensor = self(batch)[0]
        return losses.sum() / max(len(losses), 1)

    def training_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean loss of a learned token and the rows it came from."""
        losses, _ = self(batch)
        total, count = losses.sum(), max(len(losses), 1)
        self.log("train/loss", total.detach() / count, prog_bar=True, batch_size=count)
        return {"loss": total * self._share(count), "row": batch["row"]}

    def _share(self, count: int) -> Tensor | float:
        """Return what a token counts in the loss, so that all tokens of a step count the same.

        Gradients are averaged over the processes, whose batches hold different numbers of tokens.
        """
        if self.trainer.world_size == 1:
            return 1.0 / count
        total = torch.tensor(float(count), device=self.device)
        torch.distributed.all_reduce(total)
        return self.trainer.world_size / total

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """Accumulate the loss."""
        self._accumulate(self._val, self._val_decided, batch)

    def test_step(self, batch: dict[str, Tensor]) -> None:
        """Accumulate the loss."""
        self._accumulate(self._test, self._test_decided, batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss`` and ``val/perplexity`` a token, and step the plateau schedule.

        Where batches say which tokens the grammar leaves a choice about, ``val/decided_loss`` is the mean of those: of
        an answer that mostly copies, the loss of all tokens says how well it copies.
        """
        self._report_decided("val", self._val_decided)
        self.step_plateau(self._report("val", self._val))

    def on_test_epoch_end(self) -> None:
        """Log ``test/loss`` and ``test/perplexity``, and ``test/decided_loss`` where validation logs its like."""
        self._report_decided("test", self._test_decided)
        self._report("test", self._test)

    def predict_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``row`` (B,) and ``prediction`` (B, 4).

        The columns are the summed negative log-likelihood in nats and the number of learned tokens, then both for the
        decided tokens alone, zero where the batch does not say which these are.
        """
        losses, segments = self(batch)
        decided = _decided(batch)
        counted = torch.zeros_like(losses) if decided is None else decided.to(losses)
        sums = torch.zeros(len(batch["row"]), self.num_outputs, dtype=torch.float64, device=losses.device)
        parts = [losses, torch.ones_like(losses), losses * counted, counted]
        sums.index_add_(0, segments, torch.stack([part.double() for part in parts], dim=1))
        return {"row": batch["row"], "prediction": sums}

    def _accumulate(self, metric: WeightedMean, decided_metric: WeightedMean, batch: Mapping[str, Tensor]) -> None:
        losses, _ = self(batch)
        _add(metric, losses)
        decided = _decided(batch)
        _add(decided_metric, losses[:0] if decided is None else losses[decided])

    def _report(self, stage: str, metric: WeightedMean) -> Tensor:
        mean_loss: Tensor = metric.compute()
        self.log_dict({f"{stage}/loss": mean_loss.float(), f"{stage}/perplexity": mean_loss.exp().float()})
        metric.reset()
        return mean_loss

    def _report_decided(self, stage: str, metric: WeightedMean) -> None:
        mean_loss: Tensor = metric.compute()
        if not bool(mean_loss.isnan()):
            self.log(f"{stage}/decided_loss", mean_loss.float())
        metric.reset()


def _add(metric: WeightedMean, losses: Tensor) -> None:
    count = torch.tensor(len(losses), device=losses.device)
    metric.update(losses.sum() / count.clamp(min=1), count)


def _decided(batch: Mapping[str, Tensor]) -> Tensor | None:
    """Return (K,) bool, which learned tokens were decided; None where the batch does not say."""
    marked = batch.get(batch_key(_MODALITY, "decided"))
    if marked is None:
        return None
    learned = batch[batch_key(_MODALITY, "labels")][:, 1:] != _IGNORED
    return marked[:, 1:][learned]


class LanguageNetwork(nn.Module):
    """A causal language model over packed texts, of which none sees another.

    Args:
        model: causal language model of transformers, with adapters in it or without.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, labels: Tensor, positions: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Return the negative log-likelihood of the labelled tokens.

        The head is computed for the tokens that come before a labelled one, and for no others.

        Args:
            tokens: (R, L) token ids.
            labels: (R, L) the token where it is learned, -100 elsewhere.
            positions: (R, L) place of each token in its own text.
            segments: (R, L) text to which it belongs.

        Returns:
            (K,) float32 losses in nats and (K,) segment of each.
        """
        model: Any = self.model
        hidden = model.get_decoder()(
            input_ids=tokens, attention_mask=packed_mask(segments), position_ids=positions, use_cache=False
        ).last_hidden_state
        learned = labels[:, 1:] != _IGNORED
        states, wanted = hidden[:, :-1][learned], labels[:, 1:][learned]
        return token_losses(model, states, wanted), segments[:, 1:][learned]


def packed_mask(segments: Tensor) -> Tensor:
    """Return (R, 1, L, L) bool: true where a token (third axis) may look at another (fourth): earlier, of its own text.

    Padding looks at padding, so that no row of the softmax is empty.

    Args:
        segments: (R, L) text to which each token belongs, -1 for padding.
    """
    same = segments[:, :, None] == segments[:, None, :]
    return same.tril()[:, None]
