"""LearnedOptimizer in skorch: a digits classifier, cross-validated by scikit-learn.

    python -m scripts.examples.training_loops.skorch_training

skorch has a rate of its own, .01: ``lr=1.0`` is the rule's. The planned steps are those of one fit, batches an epoch
times epochs, and a fold has fewer than all rows; no ``LRScheduler`` is among the callbacks, since the rule anneals by
itself.
"""

import math

import torch
from sklearn.model_selection import cross_val_score
from skorch import NeuralNetClassifier
from torch import nn

from l2l_opt import LearnedOptimizer
from l2l_opt.tasks.images.datasets import load_digits

BATCH_SIZE, FOLDS = 64, 3


def planned_steps(rows: float, epochs: int) -> int:
    return math.ceil(rows / BATCH_SIZE) * epochs


def main(epochs: int = 10) -> None:
    torch.manual_seed(0)
    data = load_digits()
    images, labels = data.train_images.numpy(), data.train_labels.numpy()
    classifier = NeuralNetClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        criterion=nn.CrossEntropyLoss,
        optimizer=LearnedOptimizer,  # torch.optim.AdamW, with lr=1e-3, could stand here.
        lr=1.0,
        optimizer__num_steps=planned_steps(len(labels) * (FOLDS - 1) / FOLDS, epochs),
        batch_size=BATCH_SIZE,
        max_epochs=epochs,
        train_split=None,
        verbose=0,
    )
    print(f"accuracy of {FOLDS} folds: {cross_val_score(classifier, images, labels, cv=FOLDS).round(3)}")
    classifier.set_params(optimizer__num_steps=planned_steps(len(labels), epochs)).fit(images, labels)
    first, *_, last = classifier.history[:, "train_loss"]
    accuracy = classifier.score(data.test_images.numpy(), data.test_labels.numpy())
    print(f"training loss {first:.3f} to {last:.3f}; test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
