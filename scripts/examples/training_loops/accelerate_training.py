"""LearnedOptimizer under accelerate: a digits classifier, of whose batches two make a step.

    python -m scripts.examples.training_loops.accelerate_training

A step is taken every ``gradient_accumulation_steps`` batches, and at the end of an epoch. ``prepare`` comes first for
the loader: only then is its length a process's own. It is given no scheduler: the rule anneals by itself.
"""

import math

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.images.datasets import load_digits


def main(epochs: int = 10) -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    data = load_digits()
    training = DataLoader(TensorDataset(data.train_images, data.train_labels), batch_size=32, shuffle=True)
    training = accelerator.prepare(training)
    num_steps = epochs * math.ceil(len(training) / accelerator.gradient_accumulation_steps)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    # torch.optim.AdamW(model.parameters(), lr=1e-3) could stand here.
    optimizer = LearnedOptimizer(model.parameters(), num_steps=num_steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    taken = 0
    for _ in range(epochs):
        for images, labels in training:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.cross_entropy(model(images), labels))
                optimizer.step()
                optimizer.zero_grad()
            taken += accelerator.sync_gradients
    with torch.no_grad():
        right = accelerator.unwrap_model(model).cpu()(data.test_images).argmax(1) == data.test_labels
    print(f"{taken} of {num_steps} steps; test accuracy {right.float().mean():.3f}")


if __name__ == "__main__":
    main()
