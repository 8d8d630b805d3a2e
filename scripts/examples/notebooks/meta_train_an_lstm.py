# %% [markdown]
# # Meta-train an LSTM optimizer, and watch it in TensorBoard
#
# The coordinatewise LSTM of [the original paper](https://arxiv.org/abs/1606.04474) starts from random weights and
# learns to train networks on scikit-learn's digits. This page meta-trains it, reads its TensorBoard events, and runs it
# beside Adam on networks that it has not met.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from l2l_opt import CoordinatewiseLSTM, LearnedOptimizer, MetaTrainer, TruncatedBackprop
from l2l_opt.inspection.tensorboard.meta_training import MetaTrainingLog
from l2l_opt.tasks.images.datasets import load_digits
from l2l_opt.tasks.mixture import make_tasks

EFFORT = float(os.environ.get("NOTEBOOK_EFFORT", "1"))  # less than 1 in tests
OUTER_STEPS = max(2, round(300 * EFFORT))
HORIZON = 100 if EFFORT == 1 else 10
torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# ## Meta-training
#
# Eight students are trained at a time, for 100 steps each. After every 20 steps the sum of their losses is
# back-propagated through those steps into the LSTM's weights: one outer step. Every tenth of the way, eight validation
# students are trained from beginning to end.

# %%
events = Path(tempfile.mkdtemp()) / "events"
trainer = MetaTrainer(
    CoordinatewiseLSTM(),
    make_tasks("digits-mlp"),
    TruncatedBackprop(horizon=HORIZON, truncation_length=HORIZON // 5),
    outer_steps=OUTER_STEPS,
    meta_lr=0.003,
    meta_lr_schedule="cosine",
    validate_every=max(1, OUTER_STEPS // 10),
)
log = MetaTrainingLog(events)
trainer.run(
    on_outer_step=lambda step: log.on_outer_step(trainer, step), on_validation=lambda v: log.on_validation(trainer, v)
)
log.close()

# %% [markdown]
# ## TensorBoard
#
# `tensorboard --logdir` with the folder of the events shows losses, meta-gradients, the students' curves at every
# validation, the rule's gates and response, and, in a tab of its own, one training run step by step:
#
# ![TensorBoard's tab Unrolls plays a training run](../../../results/inspection/tab.png)
#
# The curves are in the event files, so that they can be drawn here too:

# %% alt="Losses of validation students, one curve a validation: the first rises, later ones fall alike"
curves = {}
for folder in sorted(events.glob("validation-*")):
    read = EventAccumulator(str(folder)).Reload()
    curves[int(folder.name.partition("-")[2])] = [point.value for point in read.Scalars("Loss/student")]
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for place, (outer_step, losses) in enumerate(curves.items()):
    label = f"after {outer_step} outer steps" if place % 5 == 0 else None
    axes.plot(losses, color=plt.get_cmap("viridis")(place / len(curves)), label=label)
axes.set(xlabel="step of a student", ylabel="training loss", yscale="log")
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# ## Use it
#
# A fresh network, the learned rule, and Adam at three rates. When this page was written, the LSTM ended below Adam at
# the two smaller rates and above it at the largest: 300 outer steps are few. `lstm-digits-1`, which ships, learned on
# this task to the end.

# %% alt="Training loss of a fresh network under the learned LSTM and under Adam at three rates"
digits = load_digits()
inputs, labels = digits.train_images.flatten(1), digits.train_labels
OPTIMIZERS = {f"Adam, lr={lr}": lambda params, lr=lr: torch.optim.Adam(params, lr=lr) for lr in (0.01, 0.03, 0.1)} | {
    "learned LSTM": lambda params: LearnedOptimizer(params, rule=trainer.best_rule())
}

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, make in OPTIMIZERS.items():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(64, 20), torch.nn.Sigmoid(), torch.nn.Linear(20, 10))
    optimizer, losses = make(model.parameters()), []
    for _ in range(HORIZON):
        rows = torch.randint(len(inputs), (128,))
        loss = torch.nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    axes.plot(losses, label=name, **({"color": "black", "linewidth": 2} if name == "learned LSTM" else {}))
    print(f"{name:14} final loss {sum(losses[-10:]) / len(losses[-10:]):.3f}")
axes.set(xlabel="step", ylabel="training loss", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# `save_rule(trainer.best_rule(), "rule.safetensors")` keeps the rule. On the command line, `l2l-opt meta-train` does
# all of this in a folder that can be resumed, and `l2l-opt evaluate` compares with baselines that are tuned properly:
# [meta-training](../../../docs/meta-training.md), [inspection](../../../docs/inspection.md).
