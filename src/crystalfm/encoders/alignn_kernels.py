"""The arithmetic of ALIGNN's layers over all edges of a graph, with as few passes over memory as it can be done.

A batch of crystals has a hundred times more triplets than atoms, so the states of the triplets decide the cost. Outside
the matrix products that cost is memory: every operation on all rows writes an array that does not fit into the cache.
Here the rows are worked on in chunks that do, forward and backward, and of the intermediate results only the gates'
input is kept; everything else is computed again where the gradient needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

NormName = Literal["batch", "layer"]

_CHUNK_ELEMENTS = 1 << 18
"""Elements of a chunk on a CPU: a few arrays of this size fit into its second-level cache, or nearly."""


_ALIGNMENT = 64
"""Bytes of a line of the cache."""


def _chunks(rows: Tensor) -> Iterator[slice]:
    """Cut the rows (M, D) into pieces that stay in the cache; on a GPU there is one piece."""
    length = len(rows)
    size = max(_CHUNK_ELEMENTS // rows.shape[1], 1) if rows.device.type == "cpu" else max(length, 1)
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _empty(length: int, width: int, like: Tensor) -> Tensor:
    """Return an uninitialised tensor (length, width) of the type and on the device of ``like``.

    On a CPU it comes from NumPy, which asks the system for huge pages: the first touch of a large array costs more than
    all the arithmetic done on it here, and five times less with them.
    """
    if like.device.type != "cpu":
        return like.new_empty(length, width)
    num_bytes = length * width * like.dtype.itemsize
    memory = torch.from_numpy(np.empty(num_bytes + _ALIGNMENT, dtype=np.uint8))
    start = -memory.data_ptr() % _ALIGNMENT
    return memory[start : start + num_bytes].view(like.dtype).view(length, width)


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which rows of ``dtype`` are added up."""
    return torch.float32 if dtype in {torch.bfloat16, torch.float16} else dtype


@dataclass
class _Statistics:
    """Mean and variance of every channel over rows that come in chunks (Chan et al. 1983, equation 2.1).

    Attributes:
        count: number of rows so far.
        mean: (D,) their mean.
        squares: (D,) sum of squared deviations from it.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device) -> _Statistics:
        """Return those of no rows of ``width`` channels."""
        zeros = torch.zeros(width, dtype=torch.float64, device=device)
        return cls(0, zeros, zeros.clone())

    def add(self, rows: Tensor) -> None:
        """Take in further rows (R, D)."""
        mean = rows.mean(dim=0)
        centred = rows - mean
        squares = centred.mul_(centred).sum(dim=0).double()  # faster than var_mean, which reads down the columns
        total = self.count + len(rows)
        difference = mean.double() - self.mean
        self.squares += squares + difference.square() * (self.count * len(rows) / total)
        self.mean += difference * (len(rows) / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Variance (D,) with the number of rows below, as batch norm takes it."""
        return self.squares / max(self.count, 1)


class _NormSilu:
    """``silu(norm(rows))`` and its gradient, a chunk of rows at a time.

    Args:
        weight: (D,) of the norm.
        bias: (D,) of the norm.
        eps: of the norm.
        mean: (D,) mean of the channels; ``None`` for a layer norm.
        variance: (D,) their variance; ``None`` for a layer norm.
        from_rows: whether mean and variance are those of the rows, so that the gradient flows through them.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        *,
        mean: Tensor | None = None,
        variance: Tensor | None = None,
        from_rows: bool = False,
    ) -> None:
        self.weight, self.bias, self.eps = weight, bias, eps
        self.from_rows = from_rows
        self.weight_grad, self.bias_grad = torch.zeros_like(weight), torch.zeros_like(bias)
        self.mean = mean
        if mean is not None and variance is not None:
            self.reciprocal = (variance + eps).rsqrt().to(weight.dtype)
            self.mean = mean.to(weight.dtype)
            self.scale = weight * self.reciprocal
            self.shift = bias - self.mean * self.scale

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the result for rows (C, D), in a new tensor."""
        return functional.silu(self._normalise(rows), inplace=True)

    def _normalise(self, rows: Tensor) -> Tensor:
        if self.mean is None:
            return functional.layer_norm(rows, rows.shape[1:], self.weight, self.bias, self.eps)
        return torch.addcmul(self.shift, rows, self.scale)

    def gather_gradient(self, rows: Tensor, grad: Tensor) -> None:
        """Take the first of two passes over rows and gradient (M, D), which only a batch norm needs."""
        if self.mean is None:
            return
        products = torch.zeros_like(self.weight)
        for chunk in _chunks(rows):
            values, inner = self._inner(rows[chunk], grad[chunk])
            self.bias_grad += inner.sum(dim=0)
            products += inner.mul_(values - self.mean).sum(dim=0)
        self.weight_grad = products * self.reciprocal
        # d rows = scale (inner - mean(inner) - normalised mean(inner normalised)), as a line in rows and inner.
        share = 1.0 / max(len(rows), 1) if self.from_rows else 0.0
        self._slope = -share * self.scale * self.weight_grad * self.reciprocal
        self._offset = -share * self.scale * self.bias_grad - self.mean * self._slope

    def backward(self, rows: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient (C, D) of rows (C, D); for a batch norm only after ``gather_gradient``."""
        if self.mean is not None:
            values, inner = self._inner(rows, grad)
            return torch.addcmul(self._offset, values, self._slope).addcmul_(inner, self.scale)
        values, shape = rows.to(self.weight.dtype), [rows.shape[1]]
        outer, mean, reciprocal = torch.native_layer_norm(values, shape, self.weight, self.bias, self.eps)
        inner = torch.ops.aten.silu_backward(grad.to(values.dtype), outer)
        result, weight_grad, bias_grad = torch.ops.aten.native_layer_norm_backward(
            inner, values, shape, mean, reciprocal, self.weight, self.bias, [True, True, True]
        )
        self.weight_grad += weight_grad
        self.bias_grad += bias_grad
        gradient: Tensor = result
        return gradient

    def _inner(self, rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows and the gradient before the SiLU, both in the wide type."""
        values = rows.to(self.weight.dtype)
        return values, torch.ops.aten.silu_backward(grad.to(values.dtype), self._normalise(values))


@dataclass(frozen=True)
class NormCall:
    """What a norm does in this call.

    Attributes:
        kind: ``batch`` or ``layer``.
        eps: of the norm.
        running: (mean, variance) to use; ``None`` takes them from the rows (or for a layer norm).
    """

    kind: NormName
    eps: float
    running: tuple[Tensor, Tensor] | None

    @property
    def from_rows(self) -> bool:
        """Whether it normalises with mean and variance of the rows themselves."""
        return self.kind == "batch" and self.running is None

    def build(self, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> _NormSilu:
        """Return the norm and SiLU of weights, mean and variance (D,)."""
        if self.kind == "layer":
            return _NormSilu(weight, bias, self.eps)
        return _NormSilu(weight, bias, self.eps, mean=mean, variance=variance, from_rows=self.from_rows)

    def moments(self, statistics: _Statistics, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the mean and variance (D,) to use, given those of the rows."""
        if self.running is not None:
            return self.running
        return statistics.mean.to(dtype), statistics.variance.to(dtype)


class _GatedEdges(torch.autograd.Function):
    """Gates of all edges, their sums over the edges of each target, and the edges' new states."""

    @staticmethod
    def forward(
        ctx: Any,
        edges: Tensor,
        source_table: Tensor,
        target_table: Tensor,
        weight: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        source: Tensor,
        target: Tensor,
        norm: NormCall,
        update: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        width = len(weight)
        wide = source_table.dtype
        activation = None if norm.running is None else norm.build(norm_weight, norm_bias, *norm.running)
        gates = _empty(len(edges), width, edges) if keep or activation is None else edges.new_empty(0)
        new_edges = _empty(len(edges), width, edges) if update else edges.new_empty(0)
        sums = torch.zeros_like(source_table)
        statistics = _Statistics.empty(width, edges.device)
        for chunk in _chunks(edges):
            pair = source_table.index_select(0, source[chunk])
            gate = torch.mm(edges[chunk], weight.t()).to(wide)
            gate += pair[:, :width]
            gate += target_table.index_select(0, target[chunk])
            if len(gates):
                gates[chunk] = gate
            if activation is None:
                statistics.add(gate)
            elif update:
                torch.add(activation(gate), edges[chunk], out=new_edges[chunk])
            torch.sigmoid(gate, out=pair[:, :width])
            pair[:, width:] *= pair[:, :width]
            sums.index_add_(0, target[chunk], pair)
        mean, variance = norm.moments(statistics, wide)
        ctx.norm, ctx.update = norm, update
        ctx.save_for_backward(
            edges, gates, source_table, weight, norm_weight, norm_bias, source, target, mean, variance
        )
        ctx.mark_non_differentiable(mean, variance)
        if activation is None and update:
            activation = norm.build(norm_weight, norm_bias, mean, variance)
            for chunk in _chunks(edges):
                torch.add(activation(gates[chunk].to(wide)), edges[chunk], out=new_edges[chunk])
        return sums, new_edges, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, sums_grad: Tensor, edges_grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        edges, gates, source_table, weight, norm_weight, norm_bias, source, target, mean, variance = ctx.saved_tensors
        width = len(weight)
        wide = source_table.dtype
        activation = ctx.norm.build(norm_weight, norm_bias, mean, variance)
        if ctx.update:
            activation.gather_gradient(gates, edges_grad)
        result = _empty(len(edges), edges.shape[1], edges)
        values_table = source_table[:, width:].contiguous()
        source_grad = torch.zeros_like(source_table)
        target_grad = torch.zeros(len(source_table), width, dtype=wide, device=edges.device)
        weight_grad = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        for chunk in _chunks(edges):
            gate = gates[chunk].to(wide)
            outer = sums_grad.index_select(0, target[chunk])
            sigma = torch.sigmoid(gate)
            gate_grad = outer[:, width:] * values_table.index_select(0, source[chunk])
            gate_grad += outer[:, :width]
            outer[:, width:] *= sigma
            gate_grad = torch.ops.aten.sigmoid_backward(gate_grad, sigma)
            if ctx.update:
                gate_grad += activation.backward(gate, edges_grad[chunk])
            outer[:, :width] = gate_grad
            source_grad.index_add_(0, source[chunk], outer)
            target_grad.index_add_(0, target[chunk], gate_grad)
            narrow = gate_grad.to(edges.dtype)
            weight_grad += torch.mm(narrow.t(), edges[chunk])
            if ctx.update:
                torch.addmm(edges_grad[chunk], narrow, weight, out=result[chunk])
            else:
                torch.mm(narrow, weight, out=result[chunk])
        norm_grads = (activation.weight_grad, activation.bias_grad) if ctx.update else (None, None)
        return result, source_grad, target_grad, weight_grad.to(weight.dtype), *norm_grads, *[None] * 5


class _LinearNormSilu(torch.autograd.Function):
    """``silu(norm(rows @ weight.T + bias))``, keeping of its intermediate results the norm's input only."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        norm: NormCall,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = norm_weight.dtype
        activation = None if norm.running is None else norm.build(norm_weight, norm_bias, *norm.running)
        inputs = _empty(len(rows), len(weight), rows) if keep or activation is None else rows.new_empty(0)
        result = _empty(len(rows), len(weight), rows)
        statistics = _Statistics.empty(len(weight), rows.device)
        for chunk in _chunks(result):
            values = torch.mm(rows[chunk], weight.t()).to(wide).add_(bias)
            if len(inputs):
                inputs[chunk] = values
            if activation is None:
                statistics.add(values)
            else:
                result[chunk] = activation(values)
        mean, variance = norm.moments(statistics, wide)
        ctx.norm = norm
        ctx.save_for_backward(rows, inputs, weight, norm_weight, norm_bias, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        if activation is None:
            activation = norm.build(norm_weight, norm_bias, mean, variance)
            for chunk in _chunks(inputs):
                result[chunk] = activation(inputs[chunk].to(wide))
        return result, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        rows, inputs, weight, norm_weight, norm_bias, mean, variance = ctx.saved_tensors
        activation = ctx.norm.build(norm_weight, norm_bias, mean, variance)
        activation.gather_gradient(inputs, grad)
        rows_grad = _empty(len(rows), rows.shape[1], rows) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros(weight.shape, dtype=norm_weight.dtype, device=weight.device)
        bias_grad = torch.zeros_like(norm_bias)
        for chunk in _chunks(inputs):
            inner = activation.backward(inputs[chunk], grad[chunk])
            bias_grad += inner.sum(dim=0)
            narrow = inner.to(rows.dtype)
            weight_grad += torch.mm(narrow.t(), rows[chunk])
            if rows_grad is not None:
                torch.mm(narrow, weight, out=rows_grad[chunk])
        norm_grads = (activation.weight_grad, activation.bias_grad)
        return rows_grad, weight_grad.to(weight.dtype), bias_grad, *norm_grads, None, None


_without_compiler: Any = torch.compiler.disable
_apply_gated_edges: Any = _without_compiler(_GatedEdges.apply)
_apply_linear_norm_silu: Any = _without_compiler(_LinearNormSilu.apply)


def gated_edges(
    edges: Tensor,
    source_table: Tensor,
    target_table: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    ends: tuple[Tensor, Tensor],
    norm: NormCall,
    *,
    update: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gates of all edges, add them up at their targets, and update the edges with them.

    ``gate = edge @ weight.T + source_table[source, :D] + target_table[target]``; each target receives the sums of
    ``sigmoid(gate)`` and of ``sigmoid(gate) * source_table[source, D:]``; an edge becomes
    ``edge + silu(norm(gate))``. Differentiable once.

    Args:
        edges: (M, D) states of the edges, of the type of the matrix products.
        source_table: (N, 2 D) what each node gives to edges that start at it: to their gates, and through these; wide.
        target_table: (N, D) what each node gives to the gates of edges that end at it; wide.
        weight: (D, D), of the type of ``edges``.
        norm_weight: (D,).
        norm_bias: (D,).
        ends: source and target of each edge, (M,) each.
        norm: what the norm does.
        update: whether the new states of the edges are needed.

    Returns:
        both sums (N, 2 D), the new edges (M, D) or nothing (0,), mean and variance (D,) of the gates.
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _apply_gated_edges(
        edges, source_table, target_table, weight, norm_weight, norm_bias, *ends, norm, update, torch.is_grad_enabled()
    )
    return result


def linear_norm_silu(
    rows: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, norm: NormCall
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``silu(norm(rows @ weight.T + bias))``, differentiable once.

    Args:
        rows: (M, K), of the type of the matrix products.
        weight: (D, K), of the type of ``rows``.
        bias: (D,).
        norm_weight: (D,).
        norm_bias: (D,).
        norm: what the norm does.

    Returns:
        (M, D), and mean and variance (D,) of what was normalised.
    """
    result: tuple[Tensor, Tensor, Tensor] = _apply_linear_norm_silu(
        rows, weight, bias, norm_weight, norm_bias, norm, torch.is_grad_enabled()
    )
    return result
