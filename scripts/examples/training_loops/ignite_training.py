"""LearnedOptimizer in an Ignite engine: a digits classifier, evaluated after every epoch.

    python -m scripts.examples.training_loops.ignite_training

The planned steps are batches an epoch times epochs. None of Ignite's schedulers (``ignite.handlers``) is attached: the
rule anneals by itself.
"""

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy, Loss
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.images.datasets import load_digits


def main(epochs: int = 10) -> None:
    torch.manual_seed(0)
    data = load_digits()
    training = DataLoader(TensorDataset(data.train_images, data.train_labels), batch_size=64, shuffle=True)
    test = DataLoader(TensorDataset(data.test_images, data.test_labels), batch_size=360)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    loss = nn.CrossEntropyLoss()
    # torch.optim.AdamW(model.parameters(), lr=1e-3) could stand here.
    optimizer = LearnedOptimizer(model.parameters(), num_steps=epochs * len(training))
    trainer = create_supervised_trainer(model, optimizer, loss)
    evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy(), "loss": Loss(loss)})
    losses = []

    @trainer.on(Events.EPOCH_COMPLETED)
    def evaluate() -> None:
        losses.append(evaluator.run(training).metrics["loss"])
        print(f"epoch {trainer.state.epoch}: test accuracy {evaluator.run(test).metrics['accuracy']:.3f}")

    trainer.run(training, max_epochs=epochs)
    print(f"training loss {losses[0]:.3f} to {losses[-1]:.3f}; test accuracy {evaluator.state.metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
