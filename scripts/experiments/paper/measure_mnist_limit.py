"""How low the loss on MNIST could be after 100 steps: the same students, their examples seen again and again.

    python -m scripts.experiments.paper.measure_mnist_limit

An optimizer of the paper's figure sees 12,800 examples once. Here each reporting student is trained for many epochs on
those examples alone that it has seen by step 95, the middle of the last ten steps, and is evaluated on training images
that it has not seen. The least such loss over learning rates and epochs, chosen with the evaluated images in sight, is
what an optimizer would have to reach that gets as much out of one pass as Adam out of many. Writes
results/paper/mnist/limit.json.
"""

import torch
from torch.nn.functional import cross_entropy

from l2l_opt.evaluation.statistics import mean_and_interval
from l2l_opt.inner_loop.horizon import Horizon
from l2l_opt.inner_loop.students import Students
from l2l_opt.randomness import Stream
from l2l_opt.rules import make_rule
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments.records import RESULTS, write

STEPS, SEEDS, EPOCHS, BATCH, EVALUATED = 95, 10, 80, 128, 10_000
RATES = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01)


def main() -> None:
    torch.set_num_threads(1)
    family = make_tasks("mnist-mlp")
    rule = make_rule("sgd")
    students = Students(
        rule, family, numbers=range(SEEDS), horizon=Horizon(100, 100), seed=0, stream=Stream.REPORTING, group_size=1
    )
    (window,) = students.windows(STEPS)
    first, last = family.examples.ranges["train"]
    curves: dict[float, list[list[float]]] = {lr: [] for lr in RATES}
    for seed in range(SEEDS):
        seen = torch.stack([batch["index"][seed] for batch in window.batches[:STEPS]]).flatten()
        unseen = torch.ones(last - first, dtype=torch.bool)
        unseen[seen - first] = False
        evaluated = unseen.nonzero().squeeze(1)[:EVALUATED] + first
        for lr in RATES:
            params = {name: param[seed] for name, param in window.inner.params.items()}
            curves[lr].append(epochs(family, params, seen, evaluated, lr=lr, seed=seed))
            print(f"seed {seed}, lr {lr}: {min(curves[lr][-1]):.4f}")
    means = {lr: torch.tensor(curve).mean(dim=0) for lr, curve in curves.items()}
    lr = min(means, key=lambda lr: float(means[lr].min()))
    epoch = int(means[lr].argmin())
    losses = [curve[epoch] for curve in curves[lr]]
    mean, interval = mean_and_interval(losses)
    found = {"lr": lr, "epochs": epoch + 1, "examples": STEPS * BATCH, "losses": losses, "mean": mean}
    found |= {"interval": interval, "mean_by_rate_and_epoch": {str(rate): m.tolist() for rate, m in means.items()}}
    write(RESULTS / "paper" / "mnist" / "limit.json", found)
    print(f"{mean:.4f} ({interval[0]:.4f} to {interval[1]:.4f}) after {epoch + 1} epochs at lr {lr}")


def epochs(family, params, seen, evaluated, *, lr: float, seed: int) -> list[float]:
    """Losses on unseen images after each epoch over the seen ones."""
    generator = torch.Generator().manual_seed(seed)
    params = {name: param.clone().requires_grad_() for name, param in params.items()}
    optimizer, found = torch.optim.Adam(params.values(), lr=lr), []
    for _ in range(EPOCHS):
        for batch in seen[torch.randperm(len(seen), generator=generator)].split(BATCH):
            optimizer.zero_grad()
            family.loss(params, {}, {"index": batch}).backward()
            optimizer.step()
        with torch.no_grad():
            outputs = torch.func.functional_call(family.module, params, family.examples.inputs[evaluated])
            found.append(float(cross_entropy(outputs, family.examples.targets[evaluated])))
    return found


if __name__ == "__main__":
    main()
