"""The published equations of the field's perceptrons, in plain numpy, for tests to compare with."""

import numpy as np

MLP = {"squares": 0.999, "eps": 1e-6, "input_eps": 1e-5}
CELO2 = {"squares": 0.95, "eps": 1e-8, "input_eps": 1e-9}
DECAYS = np.array([0.9, 0.99, 0.999])


def moved_decays(decays, offsets):
    """Decays whose logarithm of one minus them, over 10, is moved."""
    return np.clip(1 - np.exp(10 * (np.log(1 - np.asarray(decays)) / 10 + np.asarray(offsets))), 0, 1)


class Reference:
    """One tensor under a perceptron's rule. Features lie behind the axes of the tensor, as in the field's programs.

    Args:
        kind: "mlp" or "celo2".
        layers: weight ``[inputs, outputs]`` and bias of each.
        offsets: of the decays of averages, squares and factored squares.
    """

    def __init__(self, kind, layers, offsets=((0, 0, 0), (0,), (0, 0, 0))):
        self.kind, self.layers, self.options = kind, layers, MLP if kind == "mlp" else CELO2
        usual = (DECAYS, [self.options["squares"]], DECAYS)
        self.decays = [moved_decays(beta, offset) for beta, offset in zip(usual, offsets, strict=True)]
        self.m = self.v = self.row = self.column = 0.0
        self.t = 0

    def direction(self, g, p):
        """Take in a gradient: the network's outputs ``[*shape, outputs]``."""
        if self.kind == "celo2":
            g = np.clip(g, -1000, 1000)
        momentum, rms, factored = self.decays
        g1, p1 = g[..., None], p[..., None]
        self.m = momentum * self.m + (1 - momentum) * g1
        self.v = rms * self.v + (1 - rms) * g1**2
        squares = np.repeat(g1**2 + 1e-30, 3, -1)
        if g.ndim < 2:
            self.row = self.column = factored * self.row + (1 - factored) * squares
            over_g, over_m = 1 / np.sqrt(self.row + 1e-9), 1 / np.sqrt(self.row + 1e-6)
        else:
            d1, d0 = np.argsort(g.shape, kind="stable")[-2:]
            self.row = factored * self.row + (1 - factored) * squares.mean(d0, keepdims=True)
            self.column = factored * self.column + (1 - factored) * squares.mean(d1, keepdims=True)
            share = self.row / (self.row.mean(d1, keepdims=True) + 1e-9)
            over_g = over_m = 1 / np.sqrt(np.maximum(share, 1e-9)) / np.sqrt(np.maximum(self.column, 1e-9))
        whole = np.ones((*g.shape, 3))
        r = 1 / np.sqrt(self.v + self.options["eps"])
        shared = [self.row * whole, self.column * whole]
        shared += [1 / np.sqrt(value + 1e-8) for value in shared]
        if self.kind == "mlp":
            inputs = [g1, p1, self.m, self.v, self.m * r, r, g1 * over_g, *shared, self.m * over_m]
        else:
            clipped = np.clip(g1, -0.1, 0.1)
            inputs = [g1, clipped, p1, self.m, self.v, self.m * r, r, g1 * over_g, g1 * r]
            # Their program has no others of a tensor whose squares are not factored.
            inputs += [*shared, self.m * over_m] if g.ndim > 1 else []
        x = np.concatenate(inputs, -1)
        x = x / np.sqrt(self.options["input_eps"] + (x**2).mean(tuple(range(g.ndim)), keepdims=True))
        if self.kind == "mlp":
            times = np.array([1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000])
            clock = np.tanh(self.t / times - 1)
            x = np.concatenate([x, np.broadcast_to(clock, (*g.shape, 11))], -1)
        self.t += 1
        for index, (weight, bias) in enumerate(self.layers):
            x = x @ weight[: x.shape[-1]] + bias
            if index + 1 < len(self.layers):
                x = np.maximum(x, 0)
        return x

    def update(self, g, p, *, size=0.001):
        """Take in a gradient: what is added to the parameter."""
        out = self.direction(g, p)
        if self.kind == "mlp":
            return -size * out[..., 0] * np.exp(0.001 * out[..., 1])
        return -size * out[..., 0] / np.sqrt(1e-9 + (out[..., 0] ** 2).mean())
