"""Base models of pictures: each scores in its own way how little a picture is like the usual ones.

They are made from usual pictures, and rare ones of a few kinds; their scores of other kinds are for a top-level learner
to weigh.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l2l_opt.few_shot.models import make_model
from l2l_opt.optimizer.learned_optimizer import LearnedOptimizer
from l2l_opt.randomness import Stream, make_generator
from l2l_opt.tasks.student_module import reset_parameters

NAMES = ("classifier", "out of distribution", "image statistics", "image and caption")
STATISTICS = (
    "entropy",
    "grey values",
    "edge density",
    "mirror symmetry",
    "upright symmetry",
    "contrast",
    "commonest grey",
)


def statistics(images: Tensor) -> Tensor:
    """Return what ``STATISTICS`` names, ``[images, 7]``, of pictures ``[images, height, width]`` in 0 to 1."""
    levels = (images * 31).round().long().flatten(1)
    counts = torch.zeros(len(images), 32).scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float32))
    shares = counts / counts.sum(1, keepdim=True)
    entropy = -(shares * shares.clamp_min(1e-9).log()).sum(1)
    across, down = images.diff(dim=2).abs(), images.diff(dim=1).abs()
    deviation = images.flatten(1).std(1)
    relative = deviation.clamp_min(0.02)
    mirror = (images - images.flip(2)).abs().flatten(1).mean(1) / relative
    upright = (images - images.flip(1)).abs().flatten(1).mean(1) / relative
    edges = ((across > 0.1).float().flatten(1).mean(1) + (down > 0.1).float().flatten(1).mean(1)) / 2
    largest = shares.amax(1)
    return torch.stack([entropy, (counts > 0).float().sum(1), edges, mirror, upright, deviation, largest], dim=1)


def train(model: nn.Module, loss: Callable[[Tensor], Tensor], count: int, *, steps: int, seed: int) -> None:
    """Train a module in place on batches of 64 by the shipped rule.

    Args:
        model: fresh weights are drawn first.
        loss: of the examples of some indices.
        count: of all examples.
        steps: updates.
        seed: of weights and batches.
    """
    generator = make_generator(seed, Stream.META_TRAINING)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reset_parameters(model)
    optimizer = LearnedOptimizer(model.parameters(), num_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(count, (64,), generator=generator)).backward()
        optimizer.step()


def _convolutions(num_outputs: int) -> nn.Module:
    return make_model("conv:channels=16,layers=3,norm=none", input_shape=(28, 28), num_outputs=num_outputs)


class CaptionMatcher(nn.Module):
    """How well a picture fits a caption: ``scale * cos(image features, sum of the caption's words)``.

    Args:
        captions: of each class; their words are all that is known.
        width: of the common space.

    Source: arXiv 2103.00020, section 2.3, with a bag of words for a text encoder.
    """

    def __init__(self, captions: Sequence[str], *, width: int = 16):
        super().__init__()
        words = sorted({word for caption in captions for word in caption.split()})
        bags = torch.tensor([[float(word in caption.split()) for word in words] for caption in captions])
        self.register_buffer("bags", bags)
        self.bags: Tensor
        self.images = _convolutions(width)
        self.words = nn.Linear(len(words), width, bias=False)
        self.scale = 20.0

    def forward(self, images: Tensor) -> Tensor:
        """``[images, captions]``."""
        of_images, of_words = self.images(_centred(images)), self.words(self.bags)
        return self.scale * nn.functional.normalize(of_images, dim=1) @ nn.functional.normalize(of_words, dim=1).T


def _centred(images: Tensor) -> Tensor:
    return 4 * (images - 0.5)


@dataclass(frozen=True)
class ImageModels:
    """The four of ``NAMES``, fitted."""

    classifier: nn.Module
    components: Any
    of_statistics: Any
    matcher: CaptionMatcher

    def scores(self, images: Tensor) -> Tensor:
        """``[images, 4]``, higher for what is less like a usual picture."""
        flat = images.flatten(1).numpy()
        with torch.no_grad():
            outputs = self.classifier(_centred(images))
            fit = self.matcher(images).amax(1)
        rebuilt = self.components.inverse_transform(self.components.transform(flat))
        error = torch.from_numpy(((flat - rebuilt) ** 2).mean(1)).float()
        odds = torch.from_numpy(self.of_statistics.decision_function(statistics(images).numpy())).float()
        return torch.stack([outputs[:, 1] - outputs[:, 0], (error + 1e-5).log(), odds, -fit], dim=1)


def fit_image_models(
    usual: Tensor, labels: Tensor, rare: Tensor, *, captions: Sequence[str], steps: int = 300, seed: int = 0
) -> ImageModels:
    """Make the base models.

    Args:
        usual: ``[usual, 28, 28]`` in 0 to 1.
        labels: ``[usual]``, the class of each.
        rare: ``[rare, 28, 28]``, of the kinds that they are to know.
        captions: of each class of usual pictures, a few words.
        steps: updates of those that are trained by a rule.
        seed: of everything random.

    The score of what is out of distribution is the error of a linear autoencoder, principal components of usual
    pictures.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images = torch.cat([usual, rare])
    targets = torch.cat([torch.zeros(len(usual)), torch.ones(len(rare))]).long()
    classifier, matcher = _convolutions(2), CaptionMatcher(captions)
    inputs = _centred(images)
    cross_entropy = nn.functional.cross_entropy
    train(
        classifier,
        lambda rows: cross_entropy(classifier(inputs[rows]), targets[rows]),
        len(images),
        steps=steps,
        seed=seed,
    )
    train(
        matcher,
        lambda rows: cross_entropy(matcher(usual[rows]), labels[rows]),
        len(usual),
        steps=steps,
        seed=seed,
    )
    components = PCA(40, random_state=seed).fit(usual.flatten(1).numpy())
    of_statistics = make_pipeline(StandardScaler(), LogisticRegression()).fit(
        statistics(images).numpy(), targets.numpy()
    )
    return ImageModels(classifier, components, of_statistics, matcher)
