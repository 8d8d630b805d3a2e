# %% [markdown]
# # MAML in a page
#
# Every sine wave is a small task: learn it from ten points. MAML
# ([Finn et al., 2017](https://arxiv.org/abs/1703.03400)) finds weights theta from which one step of gradient descent on
# the ten points is enough:
#
#     minimise over theta   E_wave loss(theta - lr gradient of loss(theta, support set), query set)

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import nn

from l2l_opt.few_shot import EpisodeTask, MetaLearner, SinusoidEpisodes, adapt, draw_episodes, make_method
from l2l_opt.randomness import Stream

EFFORT = float(os.environ.get("NOTEBOOK_EFFORT", "1"))  # less than 1 in tests
OUTER_STEPS = max(2, round(2000 * EFFORT))
torch.set_num_threads(1)

# %% [markdown]
# ## The tasks, the model, the method
#
# `make_method` also knows `fomaml`, `anil`, `reptile`, `meta-sgd`, `meta-lstm` and `learned-rule`: change the name, and
# nothing else.

# %%
waves = EpisodeTask(
    nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)), SinusoidEpisodes()
)
theta = waves.init_params({}, torch.Generator().manual_seed(0))
untrained = {name: value.clone() for name, value in theta.items()}
method = make_method("maml", theta, lr=0.01)
learner = MetaLearner(
    method, theta, waves, validation_family=waves, outer_steps=OUTER_STEPS, validate_every=max(1, OUTER_STEPS // 10)
)
learner.run()

# %% [markdown]
# ## What it has learned
#
# 200 test waves: squared error on their query points after some steps on their ten support points, from theta and from
# the random weights that meta-training began with.


# %%
def errors(weights: dict[str, torch.Tensor], steps: int = 10) -> list[float]:
    episodes = draw_episodes(waves, range(200), seed=0, stream=Stream.TEST, num_steps=steps)
    with torch.no_grad():
        return adapt(method, waves, weights, episodes, after_every_step=True).losses.mean(1).tolist()


for name, weights in {"random weights": untrained, "theta of MAML": learner.best_theta}.items():
    after = errors(weights)
    print(f"{name}: {after[0]:.2f} after one step, {after[4]:.2f} after five, {after[9]:.2f} after ten")

# %% alt="Two test waves, their ten points, and the model after zero, one and ten steps from the weights MAML found"
figure, panels = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained", sharey=True)
line = torch.linspace(-5, 5, 200)[:, None]
for number, panel in enumerate(panels):
    for steps, style in ((0, "k:"), (1, "C0--"), (10, "C1-")):
        if steps:
            wave = draw_episodes(waves, [number], seed=0, stream=Stream.TEST, num_steps=steps)
            own = adapt(method, waves, learner.best_theta, wave).params
            own = {name: value[0].detach() for name, value in own.items()}
        else:
            own = learner.best_theta
        outputs = torch.func.functional_call(waves.model, own, line)
        panel.plot(line, outputs.detach(), style, label="after one step" if steps == 1 else f"after {steps} steps")
    panel.plot(wave.data["support_inputs"][0], wave.data["support_targets"][0], "kx", label="the ten points")
    panel.set(xlabel="x")
panels[0].legend()
plt.show()

# %% [markdown]
# The paper meta-trains for 70,000 outer steps, this page for 2,000. Methods beside one another, on sine waves and on
# Omniglot: [few-shot learning](../../../docs/few-shot.md).
