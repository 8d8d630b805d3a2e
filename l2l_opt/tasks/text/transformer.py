"""Transformers on text, from GPT-2's first weights and fine-tuned by low-rank pairs; held out."""

from functools import lru_cache, partial
from importlib import resources

import numpy as np
import torch
from torch import Tensor, nn

from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.layers.transformer import CharacterTransformer, gpt2_weights
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.text.corpus import ADVERBS, ALPHABET, next_character_loss, shipped_text, stretches_of, text_examples
from l2l_opt.tasks.text.language import language_text

BASE = {"width": 48, "blocks": 2, "heads": 4}
BASE_LENGTH = 32
SPOKEN, LEARNED = 1, 2
"""Seeds of the language that the shipped network was trained on, and of the one that it is fine-tuned on."""


@register_module_task("adverbs-gpt", batch_size=8)
def adverbs_gpt(*, width: int = 32, blocks: int = 2, heads: int = 4, length: int = 32) -> partial[ModuleTask]:
    """GPT character model of a dictionary's adverbs, from GPT-2's first weights.

    Args:
        width: features of a character.
        blocks: attention and perceptron, each.
        heads: of attention.
        length: characters read, and predicted, at a stretch.

    Raises:
        ValueError: a size that is not a positive integer; heads that do not divide the width.

    Source: Radford et al., "Language models are unsupervised multitask learners", 2019.
    """
    module = CharacterTransformer(len(ALPHABET), length, width=width, blocks=blocks, heads=heads)
    return partial(
        ModuleTask, module, next_character_loss, text_examples(shipped_text(ADVERBS), length), init_fn=gpt2_weights
    )


class LowRank(nn.Module):
    """``W x + b + (scale / rank) U V x`` with W and b frozen, V drawn and U zero at first.

    Args:
        linear: W and b.
        rank: of U V.
        scale: dimensionless; the size of what is added.

    Source: arXiv 2106.09685, section 4.1.
    """

    def __init__(self, linear: nn.Linear, rank: int, scale: float = 16.0):
        super().__init__()
        self.linear, self.scale = linear.requires_grad_(False), scale / rank
        self.inward = nn.Parameter(torch.empty(rank, linear.in_features))
        self.outward = nn.Parameter(torch.empty(linear.out_features, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.inward, a=5**0.5)
        nn.init.zeros_(self.outward)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.scale * nn.functional.linear(nn.functional.linear(x, self.inward), self.outward)


@lru_cache(1)
def base_weights() -> dict[str, Tensor]:
    """Weights of the shipped network, trained on the language of seed ``SPOKEN``, which half precision holds."""
    with resources.files("l2l_opt.tasks").joinpath("data/language_base.npz").open("rb") as file:
        return {name: torch.from_numpy(array).float() for name, array in np.load(file, allow_pickle=False).items()}


@register_module_task("language-lora", batch_size=16)
def language_lora(*, rank: int = 4) -> partial[ModuleTask]:
    """Low-rank pairs (LoRA) in a frozen transformer, that learn a language of other words and another order.

    The network was trained on one made-up language; every matrix in its two blocks gets a pair.

    Args:
        rank: of each pair.

    Raises:
        ValueError: a size that is not a positive integer.

    Source: arXiv 2106.09685.
    """
    module = CharacterTransformer(len(ALPHABET), BASE_LENGTH, **BASE)
    module.load_state_dict(base_weights())
    module.requires_grad_(False)
    for parent in list(module.blocks.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.Linear):
                setattr(parent, name, LowRank(part, rank))
    examples = stretches_of(language_text(LEARNED, reversed_order=True), BASE_LENGTH)
    return partial(ModuleTask, module, next_character_loss, examples)
