"""The same work as others would write it: a coordinatewise LSTM in PyTorch and in JAX, for benchmark.py.

Every peer computes what the rule ``lstm`` computes, with its weights. Layouts: ``[N, features]`` as users write it,
``[features, N]`` where speed comes first.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from l2l_opt.rules.lstm import CoordinatewiseLSTM

P = 10.0
BLOCK = 2048
Arrays = list[Any]


def weights_of(rule: CoordinatewiseLSTM) -> list[np.ndarray]:
    """Of each layer ``[4H, I]``, ``[4H, H]``, ``[4H]``, then the read-out's ``[1, H]`` and ``[1]``."""
    weights = [w for layer in rule.body.layers for w in (layer.weight_input, layer.weight_hidden, layer.bias)]
    return [w.detach().numpy().copy() for w in (*weights, rule.body.readout.weight, rule.body.readout.bias)]


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def torch_features(gradient: Tensor, dim: int) -> Tensor:
    size = gradient.abs()
    logarithm = (size.clamp(min=math.exp(-P)).log() / P).clamp(min=-1.0)
    return torch.stack([logarithm, torch.where(size >= math.exp(-P), gradient.sign(), gradient * math.exp(P))], dim)


def torch_cells(x: Tensor, state: list[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Coordinates first, by the framework's own LSTM cell: as users write it."""
    new: list[Tensor] = []
    zeros = weights[2].new_zeros(weights[2].shape)
    for layer in range(len(state) // 2):
        w_input, w_hidden, bias = weights[3 * layer : 3 * layer + 3]
        h, c = torch.lstm_cell(x, (state[2 * layer], state[2 * layer + 1]), w_input, w_hidden, bias, zeros)
        x = h
        new += [h, c]
    return (x @ weights[-2].T + weights[-1]).squeeze(1), new


def torch_blocks(x: Tensor, state: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features first, one block; state ``[2 * layers, H, N]``."""
    new: list[Tensor] = []
    for layer in range(state.shape[0] // 2):
        w_input, w_hidden, bias = weights[3 * layer : 3 * layer + 3]
        gates = bias.unsqueeze(1) + w_input @ x + w_hidden @ state[2 * layer]
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * state[2 * layer + 1] + i.sigmoid() * g.tanh()
        x = o.sigmoid() * c.tanh()
        new += [x, c]
    return (weights[-2] @ x + weights[-1].unsqueeze(1)).squeeze(0), torch.stack(new)


class TorchNaive:
    """A step tensor by tensor."""

    def __init__(self, rule: CoordinatewiseLSTM, params: list[Tensor], gradients: list[Tensor]):
        self.weights = [torch.from_numpy(w) for w in weights_of(rule)]
        self.params, self.gradients, self.scale = [p.clone() for p in params], gradients, rule.output_scale
        units, layers = rule.body.hidden_size, rule.body.num_layers
        self.states = [[torch.zeros(p.numel(), units) for _ in range(2 * layers)] for p in params]

    @torch.no_grad()
    def step(self) -> None:
        for index, (p, g) in enumerate(zip(self.params, self.gradients, strict=True)):
            out, self.states[index] = torch_cells(torch_features(g.flatten(), 1), self.states[index], self.weights)
            p += self.scale * out.reshape(p.shape)

    def first(self) -> np.ndarray:
        return self.params[0].numpy()


class TorchCompiled:
    """torch.compile of one block, all tensors as one row of coordinates, state in blocks and in place."""

    def __init__(self, rule: CoordinatewiseLSTM, params: list[Tensor], gradients: list[Tensor]):
        self.weights = [torch.from_numpy(w) for w in weights_of(rule)]
        self.params, self.gradients = [p.clone() for p in params], gradients
        count, scale = sum(p.numel() for p in params), rule.output_scale
        self.padding = -count % BLOCK
        blocks = (count + self.padding) // BLOCK
        self.state = torch.zeros(blocks, 2 * rule.body.num_layers, rule.body.hidden_size, BLOCK)

        def block_step(gradient: Tensor, state: Tensor, update: Tensor) -> None:
            out, new = torch_blocks(torch_features(gradient, 0), state, self.weights)
            state.copy_(new)
            update.copy_(scale * out)

        self.compiled = torch.compile(block_step, dynamic=False)

    @torch.no_grad()
    def step(self) -> None:
        flat = torch.cat([*(g.flatten() for g in self.gradients), torch.zeros(self.padding)]).view(-1, BLOCK)
        updates = torch.empty_like(flat)
        for gradient, state, update in zip(flat, self.state, updates, strict=True):
            self.compiled(gradient, state, update)
        parts = updates.view(-1)[: updates.numel() - self.padding].split([p.numel() for p in self.params])
        torch._foreach_add_(self.params, [u.view(p.shape) for u, p in zip(parts, self.params, strict=True)])

    def first(self) -> np.ndarray:
        return self.params[0].numpy()


def torch_meta_gradient(
    rule: CoordinatewiseLSTM, widths: Sequence[int], params: list[Tensor], images: Tensor, labels: Tensor
) -> tuple[float, list[np.ndarray]]:
    """Naive: a loop of K steps over tensors, autograd through all of it.

    Args:
        params: of each layer of the student ``[out, in]`` and ``[out]``.
        images: ``[K + 1, batch, features]``.
        labels: ``[K + 1, batch]``.
    """
    weights = [torch.from_numpy(w).requires_grad_() for w in weights_of(rule)]
    units, layers = rule.body.hidden_size, rule.body.num_layers
    states = [[torch.zeros(p.numel(), units) for _ in range(2 * layers)] for p in params]
    params = [p.clone().requires_grad_() for p in params]
    total = torch.zeros(())
    for step in range(len(images)):
        x = images[step]
        for layer in range(len(widths) - 1):
            x = x if layer == 0 else x.sigmoid()
            x = torch.nn.functional.linear(x, params[2 * layer], params[2 * layer + 1])
        loss = torch.nn.functional.cross_entropy(x, labels[step])
        if step:
            total = total + loss
        if step == len(images) - 1:
            break
        gradients = torch.autograd.grad(loss, params, retain_graph=True)
        for index, g in enumerate(gradients):
            out, states[index] = torch_cells(torch_features(g.flatten(), 1), states[index], weights)
            params[index] = params[index] + rule.output_scale * out.reshape(params[index].shape)
    found = torch.autograd.grad(total, weights)
    return float(total.detach()), [g.numpy() for g in found]


# --- JAX -------------------------------------------------------------------------------------------------------------


def jax_features(gradient: Any, axis: int) -> Any:
    size = jnp.abs(gradient)
    logarithm = jnp.maximum(jnp.log(jnp.maximum(size, math.exp(-P))) / P, -1.0)
    return jnp.stack([logarithm, jnp.where(size >= math.exp(-P), jnp.sign(gradient), gradient * math.exp(P))], axis)


def jax_cells(x: Any, state: Arrays, weights: Arrays) -> tuple[Any, Arrays]:
    """Coordinates first: as users write it."""
    new: Arrays = []
    for layer in range(len(state) // 2):
        w_input, w_hidden, bias = weights[3 * layer : 3 * layer + 3]
        gates = x @ w_input.T + state[2 * layer] @ w_hidden.T + bias
        i, f, g, o = jnp.split(gates, 4, axis=1)
        c = jax.nn.sigmoid(f) * state[2 * layer + 1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        x = jax.nn.sigmoid(o) * jnp.tanh(c)
        new += [x, c]
    return (x @ weights[-2].T + weights[-1])[:, 0], new


def jax_rows(x: Any, state: Arrays, weights: Arrays) -> tuple[Any, Arrays]:
    """Features first."""
    new: Arrays = []
    for layer in range(len(state) // 2):
        w_input, w_hidden, bias = weights[3 * layer : 3 * layer + 3]
        gates = w_input @ x + w_hidden @ state[2 * layer] + bias[:, None]
        i, f, g, o = jnp.split(gates, 4, axis=0)
        c = jax.nn.sigmoid(f) * state[2 * layer + 1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        x = jax.nn.sigmoid(o) * jnp.tanh(c)
        new += [x, c]
    return (weights[-2] @ x + weights[-1][:, None])[0], new


class JaxObvious:
    """jit of a step tensor by tensor, coordinates first; buffers donated."""

    def __init__(self, rule: CoordinatewiseLSTM, params: list[Tensor], gradients: list[Tensor]):
        weights = [jnp.asarray(w) for w in weights_of(rule)]
        units, layers, scale = rule.body.hidden_size, rule.body.num_layers, rule.output_scale
        self.params = [jnp.asarray(p.numpy()) for p in params]
        self.gradients = [jnp.asarray(g.numpy()) for g in gradients]
        self.states = [[jnp.zeros((p.numel(), units)) for _ in range(2 * layers)] for p in params]

        def run(params: Arrays, gradients: Arrays, states: list[Arrays]) -> tuple[Arrays, list[Arrays]]:
            results = [
                jax_cells(jax_features(g.ravel(), 1), s, weights) for g, s in zip(gradients, states, strict=True)
            ]
            moved = [p + scale * out.reshape(p.shape) for p, (out, _) in zip(params, results, strict=True)]
            return moved, [state for _, state in results]

        self.run: Callable[..., Any] = jax.jit(run, donate_argnums=(0, 2))

    def step(self) -> None:
        self.params, self.states = jax.block_until_ready(self.run(self.params, self.gradients, self.states))

    def first(self) -> np.ndarray:
        return np.asarray(self.params[0])


class JaxBlocked:
    """jit, all tensors as one row of coordinates, features first, block by block; buffers donated."""

    def __init__(self, rule: CoordinatewiseLSTM, params: list[Tensor], gradients: list[Tensor]):
        weights = [jnp.asarray(w) for w in weights_of(rule)]
        units, layers, scale = rule.body.hidden_size, rule.body.num_layers, rule.output_scale
        self.params = [jnp.asarray(p.numpy()) for p in params]
        self.gradients = [jnp.asarray(g.numpy()) for g in gradients]
        sizes = [p.numel() for p in params]
        padding = -sum(sizes) % BLOCK
        blocks = (sum(sizes) + padding) // BLOCK
        self.state = [jnp.zeros((blocks, units, BLOCK)) for _ in range(2 * layers)]
        ends = np.cumsum(sizes)[:-1]

        def run(params: Arrays, gradients: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
            flat = jnp.concatenate([*(g.ravel() for g in gradients), jnp.zeros(padding)]).reshape(-1, BLOCK)

            def block(argument: tuple[Any, Arrays]) -> tuple[Any, Arrays]:
                return jax_rows(jax_features(argument[0], 0), argument[1], weights)

            out, state = jax.lax.map(block, (flat, state))
            updates = jnp.split(out.ravel()[: sum(sizes)], ends)
            return [p + scale * u.reshape(p.shape) for p, u in zip(params, updates, strict=True)], state

        self.run: Callable[..., Any] = jax.jit(run, donate_argnums=(0, 2))

    def step(self) -> None:
        self.params, self.state = jax.block_until_ready(self.run(self.params, self.gradients, self.state))

    def first(self) -> np.ndarray:
        return np.asarray(self.params[0])


def jax_meta_gradient(
    rule: CoordinatewiseLSTM, widths: Sequence[int], *, strongest: bool
) -> Callable[[Arrays, Any, Any], tuple[Any, Arrays]]:
    """jit of value and gradient of the summed loss of K steps; one student, or with a leading axis several.

    The obvious one scans over steps, tensor by tensor, coordinates first. The strongest has all tensors as one row,
    features first, and keeps states alone for the backward pass (jax.checkpoint on the step).
    """
    phi = [jnp.asarray(w) for w in weights_of(rule)]
    units, layers, scale = rule.body.hidden_size, rule.body.num_layers, rule.output_scale
    shapes = [shape for a, b in pairwise(widths) for shape in ((b, a), (b,))]
    sizes = [math.prod(shape) for shape in shapes]
    ends = list(np.cumsum(sizes)[:-1])

    def student_loss(params: Arrays, x: Any, labels: Any) -> Any:
        for layer in range(len(widths) - 1):
            x = x if layer == 0 else jax.nn.sigmoid(x)
            x = x @ params[2 * layer].T + params[2 * layer + 1]
        return -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], 1).mean()

    def tensors(flat: Any) -> Arrays:
        return [part.reshape(shape) for part, shape in zip(jnp.split(flat, ends), shapes, strict=True)]

    def obvious(weights: Arrays, params: Arrays, images: Any, labels: Any) -> Any:
        def step(carry: Any, batch: Any) -> Any:
            params, states = carry
            loss, gradients = jax.value_and_grad(student_loss)(params, *batch)
            results = [
                jax_cells(jax_features(jax.lax.stop_gradient(g).ravel(), 1), s, weights)
                for g, s in zip(gradients, states, strict=True)
            ]
            moved = [p + scale * out.reshape(p.shape) for p, (out, _) in zip(params, results, strict=True)]
            return (moved, [state for _, state in results]), loss

        states = [[jnp.zeros((size, units)) for _ in range(2 * layers)] for size in sizes]
        (params, _), losses = jax.lax.scan(step, (params, states), (images[:-1], labels[:-1]))
        return losses[1:].sum() + student_loss(params, images[-1], labels[-1])

    def rows(weights: Arrays, params: Arrays, images: Any, labels: Any) -> Any:
        @jax.checkpoint
        def step(carry: Any, batch: Any) -> Any:
            flat, state = carry
            loss, gradient = jax.value_and_grad(lambda theta: student_loss(tensors(theta), *batch))(flat)
            out, state = jax_rows(jax_features(jax.lax.stop_gradient(gradient), 0), state, weights)
            return (flat + scale * out, state), loss

        state = [jnp.zeros((units, sum(sizes))) for _ in range(2 * layers)]
        flat = jnp.concatenate([p.ravel() for p in params])
        (flat, _), losses = jax.lax.scan(step, (flat, state), (images[:-1], labels[:-1]))
        return losses[1:].sum() + student_loss(tensors(flat), images[-1], labels[-1])

    own = rows if strongest else obvious

    def total(weights: Arrays, params: Arrays, images: Any, labels: Any) -> Any:
        if images.ndim == 3:
            return own(weights, params, images, labels)
        return jax.vmap(own, in_axes=(None, 0, 0, 0))(weights, params, images, labels).sum()

    compiled = jax.jit(jax.value_and_grad(total))

    def run(params: Arrays, images: Any, labels: Any) -> tuple[Any, Arrays]:
        return jax.block_until_ready(compiled(phi, params, images, labels))

    return run
