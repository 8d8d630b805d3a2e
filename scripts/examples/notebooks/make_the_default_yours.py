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
torch.set_num_threads(1)
torch.manual_seed(0)

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
# ones. It keeps the old rule where nothing was gained.

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
# Both rules train a network that neither has met; losses are averaged over ten steps.

# %% alt="Training loss of a fresh network under the default rule and under the specialised one"
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, rule in {"default rule": "default-3", "specialised rule": mine.rule}.items():
    torch.manual_seed(7)
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
    axes.plot(torch.tensor(losses).unfold(0, 10, 1).mean(1), label=name)
axes.set(xlabel="step", ylabel="training loss", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# One network shows little: `runs/mine/specialised.html` has ten, with intervals. The rule is in
# `runs/mine/rule.safetensors`. What such minutes have bought on five kinds of task, and where they bought nothing:
# [specialise](../../../docs/specialise.md).
