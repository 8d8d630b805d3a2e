# %% [markdown]
# # Make the default yours
#
# Do you train the same kind of model again and again? Then the default rule can learn on trainings of that very kind.
# Here: networks of two layers on digits. Two minutes of one core are few; [ten](../../../docs/specialise.md) are usual.

# %%
import os

import matplotlib.pyplot as plt
import torch

import l2l_opt
from l2l_opt.tasks.images.datasets import load_digits

EFFORT = float(os.environ.get("NOTEBOOK_EFFORT", "1"))  # less than 1 in tests
HORIZON = 250 if EFFORT == 1 else 10
STUDENTS = 10 if EFFORT == 1 else 2
torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# ## The task
#
# A module, a loss and data. Each student draws fresh weights and batches of its own.

# %%
digits = load_digits()
model = torch.nn.Sequential(
    torch.nn.Flatten(),
    torch.nn.Linear(64, 32),
    torch.nn.Tanh(),
    torch.nn.Linear(32, 32),
    torch.nn.Tanh(),
    torch.nn.Linear(32, 10),
)
task = l2l_opt.ModuleTask(
    model, torch.nn.functional.cross_entropy, (digits.train_images, digits.train_labels), batch_size=32
)

# %% [markdown]
# ## Two minutes of learning
#
# `specialise` measures this machine on the task, plans, learns, chooses on validation students, and compares on fresh
# ones. It keeps the old rule where nothing was gained for certain, as may happen in two minutes, the more so on a
# machine that has other work: then there is nothing to compare, and both curves below are one.

# %%
mine = l2l_opt.specialise(
    task,
    minutes=2 * EFFORT,
    horizon=HORIZON,
    seeds=STUDENTS,
    tuning_seeds=max(1, STUDENTS // 2),
    baselines=("adamw",) if EFFORT == 1 else (),
    out="runs/mine",
    resume=True,
)

# %%
print(mine.sentence)
print("files:", *sorted(path.name for path in mine.folder.iterdir()))

# %% [markdown]
# ## Use it
#
# Both rules train ten networks that neither has met. A curve is the mean of the ten, and of ten steps at a time.


# %%
def train(rule: l2l_opt.UpdateRule | None, seed: int) -> list[float]:
    torch.manual_seed(seed)
    for module in model:
        if isinstance(module, torch.nn.Linear):
            module.reset_parameters()
    optimizer, losses = l2l_opt.LearnedOptimizer(model.parameters(), rule=rule, num_steps=HORIZON), []
    for _ in range(HORIZON):
        rows = torch.randint(len(digits.train_images), (32,))
        loss = torch.nn.functional.cross_entropy(model(digits.train_images[rows]), digits.train_labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %% alt="Training loss of fresh networks under the default rule and under the specialised one"
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, rule in {"default rule": None, "specialised rule": mine.rule}.items():
    losses = torch.tensor([train(rule, seed) for seed in range(STUDENTS)])
    axes.plot(losses.mean(0).unfold(0, 10, 1).mean(1), "-" if rule is None else "--", label=name)
axes.set(xlabel="step", ylabel="training loss", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# Where something was gained, `runs/mine/specialised.html` has the comparison with intervals, test losses and tuned
# AdamW beside it. The rule is in `runs/mine/rule.safetensors`. What such minutes have bought on six kinds of task, and
# where they bought nothing: [specialise](../../../docs/specialise.md).
