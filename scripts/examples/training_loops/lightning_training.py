"""LearnedOptimizer in a Lightning Trainer: a digits classifier, stopped half-way and resumed from its checkpoint.

    python -m scripts.examples.training_loops.lightning_training

Needs the extra [dev] and no network. The resumed run ends in the same weights, bit for bit, as one that never stopped.

``configure_optimizers`` returns no scheduler: the rule anneals over ``num_steps``. Where a training is not to be
stopped, ``self.trainer.estimated_stepping_batches`` there is that number.
"""

import logging
import tempfile
from pathlib import Path

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.images.datasets import load_digits

BATCH_SIZE = 64


class DigitsClassifier(lightning.LightningModule):
    """A network of one hidden layer; ``losses`` are those of every step.

    Args:
        num_steps: planned steps of the whole training.
    """

    def __init__(self, num_steps: int):
        super().__init__()
        self.num_steps = num_steps
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # torch.optim.AdamW(self.parameters(), lr=1e-3) could stand here.
        return LearnedOptimizer(self.parameters(), num_steps=self.num_steps)


def train(folder: Path, *, epochs: int, planned_epochs: int, resume: Path | None = None) -> DigitsClassifier:
    """Train for some of the planned epochs; leaves ``folder/training.ckpt``.

    Args:
        folder: where the checkpoint goes.
        epochs: to stop after, counted from the very beginning.
        planned_epochs: of the whole training.
        resume: a checkpoint to go on from; None to begin.
    """
    data = load_digits()
    loader = DataLoader(TensorDataset(data.train_images, data.train_labels), batch_size=BATCH_SIZE)
    torch.manual_seed(0 if resume is None else 1)
    model = DigitsClassifier(num_steps=planned_epochs * len(loader))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    # The optimizer's state is tensors and plain values, so that a checkpoint runs no code.
    trainer.fit(model, loader, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "training.ckpt")
    return model


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = train(folder, epochs=4, planned_epochs=4)
        first = train(folder, epochs=2, planned_epochs=4)
        resumed = train(folder, epochs=4, planned_epochs=4, resume=folder / "training.ckpt")
    for title, losses in (("whole", whole.losses), ("first half", first.losses), ("resumed", resumed.losses)):
        print(f"{title:10}  {len(losses):3} steps, loss {losses[0]:.4f} to {losses[-1]:.4f}")
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    print("same weights, bit for bit:", all(torch.equal(a, b) for a, b in pairs))


if __name__ == "__main__":
    main()
