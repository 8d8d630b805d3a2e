# %% [markdown]
# # Swap it in: a small GPT and a ResNet
#
# The same loop trains both models, first with AdamW at three learning rates, then with the default rule, which has
# no rate to choose. All that differs is the line that makes the optimizer.

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.images.datasets import load_fashion_subset
from l2l_opt.tasks.text.corpus import shipped_text

EFFORT = float(os.environ.get("NOTEBOOK_EFFORT", "1"))  # less than 1 in tests
STEPS = max(2, round(300 * EFFORT))
torch.set_num_threads(1)

# %% [markdown]
# ## The models and their data
#
# A transformer of two blocks predicts the next character of the Psalms. A residual network of three stages tells
# ten kinds of clothes apart, from 3,200 pictures. Both data sets ship with the package.


# %%
class GPT(nn.Module):
    def __init__(self, symbols: int, width: int = 32, length: int = 32):
        super().__init__()
        self.symbols = nn.Embedding(symbols, width)
        self.places = nn.Parameter(torch.randn(length, width) / width**0.5)
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, symbols)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        hidden = self.blocks(self.symbols(text) + self.places, mask=self.mask, is_causal=True)
        return self.head(hidden).transpose(1, 2)  # [batch, symbols, length]


class Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.short = nn.Conv2d(channels, out, 1, stride, bias=False) if channels != out else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.main(images) + self.short(images))


def resnet() -> nn.Module:
    stem = [nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()]
    stages = [Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 32, 2)]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


text = shipped_text("psalms")
stretches = text.places.long().unfold(0, 33, 1)  # every 33 characters in a row; the last tenth is for the test
border = len(stretches) * 9 // 10
clothes = load_fashion_subset()

PROBLEMS = {
    "GPT": (
        lambda: GPT(len(text.alphabet)),
        (stretches[: border - 33, :-1], stretches[: border - 33, 1:]),
        (stretches[border::97, :-1], stretches[border::97, 1:]),
    ),
    "ResNet": (
        resnet,
        (clothes.train_images[:, None], clothes.train_labels),
        (clothes.test_images[:, None], clothes.test_labels),
    ),
}
for name, (make, _, _) in PROBLEMS.items():
    print(f"{name}: {sum(p.numel() for p in make().parameters()):,} parameters")

# %% [markdown]
# ## One loop for all optimizers

# %%
OPTIMIZERS = {
    f"AdamW, lr={lr}": lambda params, lr=lr: torch.optim.AdamW(params, lr=lr) for lr in (0.001, 0.003, 0.01)
} | {"default rule": lambda params: LearnedOptimizer(params, num_steps=STEPS)}


def train(problem: str, optimizer: str) -> tuple[list[float], float]:
    make, (inputs, targets), (test_inputs, test_targets) = PROBLEMS[problem]
    torch.manual_seed(0)
    model = make()
    stepper, losses = OPTIMIZERS[optimizer](model.parameters()), []
    for _ in range(STEPS):
        rows = torch.randint(len(inputs), (64,))
        loss = cross_entropy(model(inputs[rows]), targets[rows])
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, cross_entropy(model.eval()(test_inputs), test_targets).item()


runs = {(problem, optimizer): train(problem, optimizer) for problem in PROBLEMS for optimizer in OPTIMIZERS}

# %% alt="Training losses of a GPT and a ResNet under AdamW at three rates and under the default rule"
figure, panels = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
for panel, problem in zip(panels, PROBLEMS, strict=True):
    for optimizer in OPTIMIZERS:
        losses = torch.tensor(runs[problem, optimizer][0])
        window = max(1, STEPS // 20)
        style = {"color": "black", "linewidth": 2} if optimizer == "default rule" else {}
        panel.plot(losses.unfold(0, window, 1).mean(1), label=optimizer, **style)
    panel.set(title=problem, xlabel="step", ylabel="training loss", yscale="log")
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("{x:.1f}")
panels[0].legend()
plt.show()

# %% [markdown]
# Training loss is the mean of the last tenth of the steps; test loss is of data that were not trained on. Lower is
# better. When this page was written, AdamW was ahead on the GPT at the best of its three rates and behind at the
# other two, and behind at all three on the ResNet: the rule spares the trials, and does not beat every rate that they
# may find.

# %%
print(f"{'':24}{'training loss':>14}{'test loss':>11}")
for (problem, optimizer), (losses, test_loss) in runs.items():
    last = losses[-max(1, STEPS // 10) :]
    print(f"{problem + ', ' + optimizer:24}{sum(last) / len(last):14.3f}{test_loss:11.3f}")

# %% [markdown]
# Next: [what to set](../../../docs/settings.md), [how the default works](../../../docs/default.md), and
# [all measurements](../../../README.md#should-i-use-it).
