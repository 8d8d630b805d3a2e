"""LearnedOptimizer under accelerate: a digits classifier, stopped half-way and resumed from its checkpoint.

    python -m scripts.examples.training_loops.accelerate_training

Needs the extra [dev] and no network. The resumed run ends in the same weights, bit for bit, as one that never stopped.

``prepare`` is given no scheduler: the rule anneals over ``num_steps``. Each of several processes has its own batches,
and with ``gradient_accumulation_steps`` there are as many times fewer steps.
"""

import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.images.datasets import load_digits

BATCH_SIZE = 64


def train(
    folder: Path, *, epochs: range, planned_epochs: int, resume: bool = False
) -> tuple[list[float], nn.Module, torch.optim.Optimizer]:
    """Train for some of the planned epochs; leaves a checkpoint in ``folder``.

    Args:
        folder: where the checkpoint goes, and comes from.
        epochs: which to run.
        planned_epochs: of the whole training.
        resume: go on from the checkpoint.

    Returns:
        The loss of every step, the network and the optimizer.
    """
    accelerator = Accelerator(cpu=True)
    data = load_digits()
    loader = DataLoader(TensorDataset(data.train_images, data.train_labels), batch_size=BATCH_SIZE)
    torch.manual_seed(1 if resume else 0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    # torch.optim.AdamW(network.parameters(), lr=1e-3) could stand here.
    optimizer = LearnedOptimizer(network.parameters(), num_steps=planned_epochs * len(loader))
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    if resume:
        accelerator.load_state(str(folder))
    losses = []
    for _ in epochs:
        for images, labels in loader:
            with accelerator.accumulate(network):
                loss = nn.functional.cross_entropy(network(images), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    accelerator.save_state(str(folder))
    return losses, accelerator.unwrap_model(network), optimizer


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, network, _ = train(folder, epochs=range(4), planned_epochs=4)
        first, _, _ = train(folder, epochs=range(2), planned_epochs=4)
        resumed, again, _ = train(folder, epochs=range(2, 4), planned_epochs=4, resume=True)
    for title, losses in (("whole", whole), ("first half", first), ("resumed", resumed)):
        print(f"{title:10}  {len(losses):3} steps, loss {losses[0]:.4f} to {losses[-1]:.4f}")
    pairs = zip(network.parameters(), again.parameters(), strict=True)
    print("same weights, bit for bit:", all(torch.equal(a, b) for a, b in pairs))


if __name__ == "__main__":
    main()
