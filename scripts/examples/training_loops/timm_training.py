"""LearnedOptimizer by timm's factory: a small vision transformer of timm's learns Fashion-MNIST's clothes.

    python -m scripts.examples.training_loops.timm_training

Registered once, the rule has a name that ``create_optimizer_v2`` knows; leave its ``lr`` out. timm's schedulers step by
epochs or updates: make none, and give the rule the updates of the whole training.
"""

import timm
import torch
from timm.optim import OptimInfo, create_optimizer_v2
from timm.optim._optim_factory import default_registry
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.images.datasets import load_fashion_subset

default_registry.register(OptimInfo("learned", LearnedOptimizer, has_eps=False, has_betas=False))


def main(epochs: int = 4) -> None:
    torch.manual_seed(0)
    data = load_fashion_subset()
    loader = DataLoader(TensorDataset(data.train_images[:, None], data.train_labels), batch_size=64, shuffle=True)
    model = timm.create_model("test_vit", img_size=28, patch_size=7, in_chans=1, num_classes=10)
    # opt="adamw", lr=1e-3 could stand here.
    optimizer = create_optimizer_v2(model, opt="learned", num_steps=epochs * len(loader))
    losses = []
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    with torch.no_grad():
        right = model.eval()(data.test_images[:, None]).argmax(1) == data.test_labels
    first, last = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
    print(f"training loss {first:.3f} to {last:.3f}; test accuracy {right.float().mean():.3f}")


if __name__ == "__main__":
    main()
