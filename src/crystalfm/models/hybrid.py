"""Hybrid-LLM-GNN: the vectors of several encoders side by side, and a predictor of numbers on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from crystalfm.contracts import MODALITIES, UserError, batch_key
from crystalfm.models.predictors import MemberPredictor, ResidualPredictor
from crystalfm.models.regression import RegressionModule
from crystalfm.models.settings import check_choice, check_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crystalfm.contracts import TargetSpec
    from crystalfm.encoders.networks import EncoderNetwork
    from crystalfm.models.scaling import TargetScaling
    from crystalfm.models.settings import OptimizerSettings, SchedulerSettings

PredictorName = Literal["small", "residual"]
NormalizeName = Literal["none", "layer", "standard"]

_EPSILON = 1e-5


class RunningStandardization(nn.Module):
    """Columns less their mean over their spread, both of every row that training has seen so far.

    Unlike batch norm it divides by the same numbers in training and afterwards, so that a batch may have any size, one
    row included; after the first epoch the numbers are those of the training rows. A column that does not vary is 0.

    Args:
        width: number D of columns.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(width, dtype=torch.float64))

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take (B, D) rows into account (Chan et al. 1979, the pairwise update of means and sums of squares)."""
        rows = values.detach().double()
        if not len(rows):
            return
        total = self.count + len(rows)
        shift = rows.mean(dim=0) - self.mean
        self.squares += (rows - rows.mean(dim=0)).square().sum(dim=0) + shift.square() * self.count * len(rows) / total
        self.mean += shift * len(rows) / total
        self.count.copy_(total)

    def forward(self, values: Tensor) -> Tensor:
        """Return standardised (B, D)."""
        spread = (self.squares / self.count.clamp(min=1)).sqrt()
        varies = spread > _EPSILON * self.mean.abs().clamp(min=_EPSILON)
        scale = torch.where(varies, 1.0 / spread.clamp(min=_EPSILON**2), 0.0)
        return (values - self.mean.to(values.dtype)) * scale.to(values.dtype)


class HybridRegressor(RegressionModule):
    """Concatenates the encoders' vectors and predicts from them.

    After Li et al., "Hybrid-LLM-GNN: integrating large language models and graph neural networks for enhanced materials
    property prediction", Digital Discovery 4, 376 (2025), 10.1039/D4DD00199K: the vector of a crystal's graph and the
    vector of its description side by side, then a predictor. With one encoder it is the paper's "GNN only" or "LLM
    only". Nothing here keeps the encoders frozen: one with ``frozen: false`` is trained end to end, which the paper
    leaves for the future.

    ``predictor: residual`` is the paper's, see ``ResidualPredictor``. The paper trains it on targets as they are, here
    targets are standardised as for every model: under a mean absolute error and Adam, whose steps do not depend on the
    scale of the loss, that changes where the outputs start, not what is minimised.

    ``predictor: small`` is for hundreds to thousands of rows, see ``MemberPredictor``: each member has a loss of its
    own, so that they stay independent, and their mean predicts.

    Args:
        encoders: network of each modality, in the order of the vector (runtime).
        targets: quantities to predict (runtime).
        scaling: target scaling of the training split (runtime).
        optimizer: optimizer settings (runtime).
        scheduler: learning-rate settings (runtime).
        loss: ``mse``, ``mae``, ``huber`` or ``smooth_l1``, in standardised units.
        predictor: ``small`` or ``residual``.
        normalize: of each encoder's vector: ``standard`` (mean and spread over the training rows), ``layer`` (over the
            vector's own entries) or ``none``.
        block_scales: factor on a modality's normalised vector where there are several, by name: what is small has to
            earn its influence, so that hundreds of columns of little use do not drown in noise those that matter. 1
            for what is not named.
        width: of ``small``: width of the hidden layers.
        num_layers: of ``small``: number of hidden layers.
        num_members: of ``small``: number of independent networks.
        input_dropout: of ``small``: dropout on the normalised vectors.
        dropout: of ``small``: dropout after each hidden layer.
        residual_dropout: of ``residual``: whether the rates that the paper's configuration names act.

    Raises:
        UserError: no modality, no target, or a setting out of range.
    """

    def __init__(
        self,
        *,
        encoders: Mapping[str, EncoderNetwork],
        targets: Sequence[TargetSpec],
        scaling: TargetScaling,
        optimizer: OptimizerSettings,
        scheduler: SchedulerSettings,
        loss: Literal["mse", "mae", "huber", "smooth_l1"] = "mae",
        predictor: Literal["small", "residual"] = "small",
        normalize: Literal["none", "layer", "standard"] = "standard",
        block_scales: dict[str, float] | None = None,
        width: int = 128,
        num_layers: int = 3,
        num_members: int = 4,
        input_dropout: float = 0.3,
        dropout: float = 0.1,
        residual_dropout: bool = False,
    ) -> None:
        super().__init__(targets=targets, scaling=scaling, loss=loss, optimizer=optimizer, scheduler=scheduler)
        if not encoders:
            raise UserError("model=hybrid needs at least one modality", remedy="modalities=[crystal_graph,description]")
        check_choice("model.predictor", predictor, get_args(PredictorName))
        check_choice("model.normalize", normalize, get_args(NormalizeName))
        for key, count in (("width", width), ("num_layers", num_layers), ("num_members", num_members)):
            check_range(f"model.{key}", count, low=1)
        for key, rate in (("input_dropout", input_dropout), ("dropout", dropout)):
            check_range(f"model.{key}", rate, low=0, high=1, high_open=True)
        for name, scale in (block_scales or {}).items():
            check_choice("model.block_scales", name, tuple(MODALITIES))
            check_range(f"model.block_scales.{name}", scale, low=0, low_open=True)
        self.modalities = tuple(encoders)
        self.block_scales = dict(block_scales or {}) if len(encoders) > 1 else {}
        self.encoders = nn.ModuleDict(encoders)
        self.norms = nn.ModuleDict({name: _norm(normalize, encoder.width) for name, encoder in encoders.items()})
        in_features = sum(encoder.width for encoder in encoders.values())
        self.predictor: ResidualPredictor | MemberPredictor
        if predictor == "residual":
            self.predictor = ResidualPredictor(in_features, len(targets), use_dropout=residual_dropout)
        else:
            self.predictor = MemberPredictor(
                in_features,
                len(targets),
                num_members=num_members,
                width=width,
                num_layers=num_layers,
                input_dropout=input_dropout,
                dropout=dropout,
            )

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the vectors side by side (B, D), 0 in the block of a modality that a row lacks."""
        blocks = []
        for name in self.modalities:
            present = batch[batch_key(name, "present")]
            vectors = self.encoders[name](batch)
            norm = self.norms[name]
            if isinstance(norm, RunningStandardization) and self.training:
                norm.update(vectors[present])
            scaled = norm(vectors) * self.block_scales.get(name, 1.0)
            blocks.append(torch.where(present[:, None], scaled, vectors.new_zeros(())))
        return torch.cat(blocks, dim=1)

    def predict_members(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return each member's standardised predictions (K, B, T)."""
        members: Tensor = self.predictor(self.embed(batch))
        return members

    def predict_standardised(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return predictions (B, T) in units of each target's spread, from its mean: the mean of the members'."""
        return self.predict_members(batch).mean(dim=0)

    def training_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over the members of each one's own loss: a loss of their mean would tie them together."""
        members = self.predict_members(batch)
        repeated = {key: batch[key].expand_as(members) for key in ("targets", "target_mask")}
        return self.loss(members, repeated)[0]


def _norm(kind: NormalizeName, width: int) -> nn.Module:
    if kind == "layer":
        return nn.LayerNorm(width, elementwise_affine=False)
    return RunningStandardization(width) if kind == "standard" else nn.Identity()
