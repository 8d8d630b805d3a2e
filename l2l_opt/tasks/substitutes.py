"""What runs in place of layers that cannot run for many students at once, or whose outputs are not a function of them.

Fused recurrent layers have no batched form; dropout draws from a generator that all students share; batch norm with
running statistics writes them while it runs. Each gets a forward of plain operations that reads what it needs from a
``Pass``. Its parameters, their names and how they are drawn stay the layer's own.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import PackedSequence

from l2l_opt.tasks.layers.recurrent import elman, elman_relu, gru, lstm, recur


class Pass:
    """One forward pass of a student: the seed of its dropout, and the running statistics that it makes.

    Without a seed the pass is one of evaluation: nothing is dropped, and running statistics are used.

    Attributes:
        seed: 0-dim; None in evaluation.
        statistics: name of a buffer -> its value after a pass of training.
        differs: whether training and evaluation do.
        running: names of the buffers that passes of training change.
    """

    def __init__(self):
        self.seed: Tensor | None = None
        self.draws = 0
        self.statistics: dict[str, Tensor] = {}
        self.differs = False
        self.running: list[str] = []

    @contextlib.contextmanager
    def seeded(self, seed: Tensor | None) -> Iterator[None]:
        self.seed, self.draws, self.statistics = seed, 0, {}
        try:
            yield
        finally:
            self.seed, self.statistics = None, {}

    def drop(self, x: Tensor, probability: float, *, shared_axes: int = 0) -> Tensor:
        """Dropout, for all of the last axes alike: ``x mask / (1 - probability)``."""
        if self.seed is None or probability == 0:
            return x
        shape = (*x.shape[: x.dim() - shared_axes], *[1] * shared_axes)
        self.draws += 1
        places = torch.arange(torch.Size(shape).numel(), device=x.device)
        bits = _mixed(places + _mixed(self.seed + self.draws)).reshape(shape)
        keep = _shifted(bits, 40) >= probability * 2**24
        return torch.where(keep, x / max(1 - probability, 1e-30), 0)


def _mixed(z: Tensor) -> Tensor:
    """A hash of 64 bits: what is random must be a function of the seed, whatever students run beside this one.

    Source: SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    z = (z + 1) * -0x61C8864680B583EB
    z = (z ^ _shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ _shifted(z, 27)) * -0x6B2FB644ECCEEE15
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, count: int) -> Tensor:
    """A shift to the right that brings in zeros."""
    return (z >> count) & ((1 << (64 - count)) - 1)


def substitute(module: nn.Module) -> Pass:
    """Give layers of a module a forward that runs for many students, in place; returns what their passes read."""
    current = Pass()
    for name, part in module.named_modules():
        kind: Any = type(part).forward
        own: Callable[..., Any] | None = None
        if isinstance(part, nn.RNNBase) and kind in RECURRENT:
            own = _recurrent
            current.differs |= part.training and part.dropout > 0
        elif not part.training:
            continue
        elif kind in DROPOUTS and part.p > 0:  # type: ignore[operator]
            own, current.differs = partial(_dropout, shared_axes=DROPOUTS[kind]), True
        elif isinstance(part, nn.MultiheadAttention) and part.dropout > 0:
            own, current.differs = _attention, True
        elif isinstance(part, _BatchNorm) and part.track_running_stats:
            prefix = f"{name}." if name else ""
            own, current.differs = partial(_batch_norm, prefix=prefix), True
            current.running += [prefix + key for key in ("running_mean", "running_var", "num_batches_tracked")]
        if own is not None:
            part.__dict__["forward"] = partial(own, part, current)
    return current


DROPOUTS: dict[Any, int] = {
    nn.Dropout.forward: 0,
    nn.Dropout1d.forward: 1,
    nn.Dropout2d.forward: 2,
    nn.Dropout3d.forward: 3,
}
"""Forward of a layer -> last axes that it drops together."""

RECURRENT: tuple[Any, ...] = (nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward)


def _dropout(part: nn.Module, current: Pass, x: Tensor, *, shared_axes: int) -> Tensor:
    return current.drop(x, float(part.p), shared_axes=shared_axes) if part.training else x  # type: ignore[arg-type]


def _recurrent(part: nn.RNNBase, current: Pass, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    if isinstance(x, PackedSequence):
        raise ValueError(f"a student's {type(part).__name__} must read tensors; got a PackedSequence, use padding")
    of_lstm, batched = isinstance(part, nn.LSTM), x.dim() == 3
    x = x if batched else x.unsqueeze(0 if part.batch_first else 1)
    x = x.transpose(0, 1) if part.batch_first else x
    directions = 2 if part.bidirectional else 1
    if hx is None:
        sizes = (part.proj_size or part.hidden_size, part.hidden_size)
        first, first_c = (x.new_zeros(part.num_layers * directions, x.shape[1], size) for size in sizes)
    else:
        first, first_c = hx if of_lstm else (hx, hx)
        first, first_c = (state if batched else state.unsqueeze(1) for state in (first, first_c))
    last, last_c = [], []
    for layer in range(part.num_layers):
        sides = []
        for direction in range(directions):
            place = layer * directions + direction
            states, c = _one_direction(part, layer, direction, x, first[place], first_c[place])
            last.append(states[-1])
            last_c.append(c)
            sides.append(torch.stack(states[::-1] if direction else states))
        x = torch.cat(sides, -1)
        if part.training and layer < part.num_layers - 1:
            x = current.drop(x, part.dropout)
    outputs = x.transpose(0, 1) if part.batch_first else x
    h, c = (torch.stack(states) for states in (last, last_c))
    if not batched:
        outputs, h, c = outputs.squeeze(0 if part.batch_first else 1), h.squeeze(1), c.squeeze(1)
    return outputs, (h, c) if of_lstm else h


def _one_direction(
    part: nn.RNNBase, layer: int, direction: int, x: Tensor, h: Tensor, c: Tensor
) -> tuple[list[Tensor], Tensor]:
    """States of one layer, in the order in which they are made: ``[length, batch, features]`` of inputs."""
    suffix = f"_l{layer}{'_reverse' * direction}"

    def weight(kind: str) -> Tensor | None:
        found = getattr(part, kind + suffix, None)
        # PyTorch's order of an LSTM's gates is i, f, the new c, o.
        return torch.cat([found.chunk(4)[gate] for gate in (0, 1, 3, 2)]) if lstm_gates and found is not None else found

    lstm_gates = isinstance(part, nn.LSTM)
    in_weight, in_bias, state_weight, state_bias = map(weight, ("weight_ih", "bias_ih", "weight_hh", "bias_hh"))
    assert in_weight is not None
    assert state_weight is not None
    cell = lstm if lstm_gates else gru if isinstance(part, nn.GRU) else elman
    cell = elman_relu if part.mode == "RNN_RELU" else cell
    projection: Tensor | None = getattr(part, f"weight_hr{suffix}", None)
    drives = linear(x, in_weight, in_bias).unbind(0)

    def step(drive: Tensor, recurrent: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h, c = cell(drive, recurrent, h, c)
        return h if projection is None else linear(h, projection), c

    return recur(step, drives[::-1] if direction else drives, lambda h: linear(h, state_weight, state_bias), h, c)


def _attention(
    part: nn.MultiheadAttention,
    current: Pass,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention with dropout of its weights, of what ``nn.MultiheadAttention`` takes."""
    if part.bias_k is not None or part.add_zero_attn or query.dim() != 3:
        raise ValueError(
            "a student's attention with dropout must be of batches and without add_bias_kv and add_zero_attn; got "
            "another, use dropout=0 in it"
        )
    if not part.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    whole = part.in_proj_weight
    weights = (part.q_proj_weight, part.k_proj_weight, part.v_proj_weight) if whole is None else whole.chunk(3)
    biases = (None,) * 3 if part.in_proj_bias is None else part.in_proj_bias.chunk(3)
    q, k, v = (
        linear(x, weight, bias).unflatten(-1, (part.num_heads, -1)).transpose(1, 2)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if attn_mask is not None:
        scores = _masked(scores, attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (-1, part.num_heads)))
    if key_padding_mask is not None:
        scores = _masked(scores, key_padding_mask[:, None, None])
    attended = current.drop(scores.softmax(-1), part.dropout if part.training else 0)
    outputs = part.out_proj((attended @ v).transpose(1, 2).flatten(2))
    shown = (attended.mean(1) if average_attn_weights else attended) if need_weights else None
    return outputs if part.batch_first else outputs.transpose(0, 1), shown


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def _batch_norm(part: _BatchNorm, current: Pass, x: Tensor, *, prefix: str) -> Tensor:
    mean, variance, count = part.running_mean, part.running_var, part.num_batches_tracked
    assert mean is not None
    assert variance is not None
    assert count is not None
    training = part.training and current.seed is not None
    if training:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        rows = x.numel() // x.shape[1]
        own_variance, own_mean = torch.var_mean(x.detach(), dim=axes, correction=0)
        count = count + 1
        rate = count.to(x.dtype).reciprocal() if part.momentum is None else part.momentum
        current.statistics |= {
            f"{prefix}running_mean": mean + rate * (own_mean - mean),
            f"{prefix}running_var": variance + rate * (own_variance * (rows / max(rows - 1, 1)) - variance),
            f"{prefix}num_batches_tracked": count,
        }
        mean = variance = None
    return nn.functional.batch_norm(x, mean, variance, part.weight, part.bias, training, 0.0, part.eps)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention of plain operations: PyTorch's fused kernels have no second derivatives and run for one student."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
