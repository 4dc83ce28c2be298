"""Networks from a vector to numbers: the residual perceptron of Hybrid-LLM-GNN, and several small ones side by side."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

RESIDUAL_GROUPS = ((1024, 4), (512, 3), (256, 3), (128, 3), (64, 2), (32, 1))
"""Width and number of layers of each group of the residual perceptron (Hybrid-LLM-GNN's arch string)."""

RESIDUAL_DROPOUT = (0.2, 0.1, 0.3, 0.2, 0.0, 0.0)
"""Dropout after each group as the paper's configuration asks for it."""


class ResidualLayer(nn.Module):
    """``relu(W x + b)`` plus its input, which a linear layer brings to the width where the two differ.

    Args:
        in_features: width of the input.
        out_features: width of the output.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.projection = nn.Linear(in_features, out_features) if in_features != out_features else nn.Identity()
        for layer in (self.linear, self.projection):
            if isinstance(layer, nn.Linear):  # as Keras does, in which the paper's network is written
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, in_features) to (B, out_features)."""
        skipped: Tensor = self.projection(values)
        return functional.relu(self.linear(values)) + skipped


class ResidualPredictor(nn.Module):
    """The predictor of Hybrid-LLM-GNN (Li et al., Digital Discovery 4, 376, 2025; 10.1039/D4DD00199K).

    Sixteen residual layers ``h = relu(W x + b) + x`` in groups of ``RESIDUAL_GROUPS`` (1024 x 4, 512 x 3, 256 x 3,
    128 x 3, 64 x 2, 32 x 1), with ``relu(W x + b) + (V x + c)`` where the width changes, then a linear layer: for one
    target 8,389,409 parameters on 1,536 inputs and 6,816,545 on 768. The paper's configuration names dropout rates
    of 0.2, 0.1, 0.3 and 0.2 after the four widest groups, but its code calls the layers with ``training=False``, so
    that they never act; here they act only when asked for. No normalisation anywhere.

    Args:
        in_features: width of the input.
        num_targets: number T of outputs.
        use_dropout: whether ``RESIDUAL_DROPOUT`` acts in training.
    """

    def __init__(self, in_features: int, num_targets: int, *, use_dropout: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_features
        for (group_width, num_layers), rate in zip(RESIDUAL_GROUPS, RESIDUAL_DROPOUT, strict=True):
            for _ in range(num_layers):
                layers.append(ResidualLayer(width, group_width))
                width = group_width
            layers += [nn.Dropout(rate)] if use_dropout and rate else []
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_targets)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, in_features) to (1, B, T): one member."""
        output: Tensor = self.head(self.layers(values))
        return output[None]


class MemberLinear(nn.Module):
    """Linear layers of K independent members in one batched product.

    Args:
        num_members: number K of members.
        in_features: width of the input.
        out_features: width of the output.
    """

    def __init__(self, num_members: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(in_features)  # as torch initialises a linear layer
        self.weight = nn.Parameter(torch.empty(num_members, in_features, out_features).uniform_(-bound, bound))
        # Flat, so that weight decay, which takes what has two axes or more, leaves it alone.
        self.bias = nn.Parameter(torch.empty(num_members * out_features).uniform_(-bound, bound))

    def forward(self, values: Tensor) -> Tensor:
        """Map (K, B, in_features) to (K, B, out_features)."""
        num_members, _, out_features = self.weight.shape
        return torch.baddbmm(self.bias.view(num_members, 1, out_features), values, self.weight)


class MemberPredictor(nn.Module):
    """Perceptrons side by side: same input, own initial weights and dropout, their mean is the prediction.

    An ensemble of networks that differ in their initial weights (Lakshminarayanan et al., NeurIPS 2017) in one module.

    Args:
        in_features: width of the input.
        num_targets: number T of outputs.
        num_members: number K of perceptrons.
        width: width of their hidden layers.
        num_layers: number of hidden layers, each a linear layer, SiLU and dropout.
        input_dropout: dropout on the input.
        dropout: dropout after each hidden layer.
    """

    def __init__(
        self,
        in_features: int,
        num_targets: int,
        *,
        num_members: int,
        width: int,
        num_layers: int,
        input_dropout: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_members = num_members
        self.input_dropout = nn.Dropout(input_dropout)
        widths = (in_features, *[width] * num_layers)
        self.layers = nn.ModuleList(MemberLinear(num_members, *pair) for pair in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.head = MemberLinear(num_members, widths[-1], num_targets)
        nn.init.zeros_(self.head.bias)  # standardised targets have mean zero

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, in_features) to (K, B, T), what each member predicts."""
        hidden = self.input_dropout(values.expand(self.num_members, *values.shape))
        for layer in self.layers:
            hidden = self.dropout(functional.silu(layer(hidden)))
        output: Tensor = self.head(hidden)
        return output
