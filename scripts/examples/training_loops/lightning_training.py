"""LearnedOptimizer in a Lightning Trainer: a digits classifier.

    python -m scripts.examples.training_loops.lightning_training

Lightning counts the steps itself, accumulation and devices included, and ``configure_optimizers`` passes them on. It
returns no scheduler beside the optimizer: the rule anneals by itself.
"""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.images.datasets import load_digits


class DigitsClassifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def test_step(self, batch: list[Tensor]) -> None:
        self.log("accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # torch.optim.AdamW(self.parameters(), lr=1e-3) could stand here.
        return LearnedOptimizer(self.parameters(), num_steps=int(self.trainer.estimated_stepping_batches))


def main(epochs: int = 10) -> None:
    torch.manual_seed(0)
    data = load_digits()
    training = DataLoader(TensorDataset(data.train_images, data.train_labels), batch_size=64, shuffle=True)
    test = DataLoader(TensorDataset(data.test_images, data.test_labels), batch_size=360)
    model = DigitsClassifier()
    trainer = lightning.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, training)
    (scores,) = trainer.test(model, test, verbose=False)
    print(f"{trainer.global_step} steps; test accuracy {scores['accuracy']:.3f}")


if __name__ == "__main__":
    main()
