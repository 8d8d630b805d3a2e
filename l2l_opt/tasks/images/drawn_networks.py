"""A residual network, a vision transformer, a U-Net and an autoencoder on drawn pictures; held out."""

from functools import partial

import torch
from torch import Tensor, nn

from l2l_opt.checks import Positive
from l2l_opt.tasks.base import register_module_task
from l2l_opt.tasks.images.drawn import (
    SHAPES,
    TEXTURES,
    cell_pictures,
    shape_pictures,
    stroke_pictures,
    texture_pictures,
)
from l2l_opt.tasks.layers.transformer import DEVIATION, Block
from l2l_opt.tasks.module_task import ModuleTask
from l2l_opt.tasks.student_module import reset_parameters


class ResidualConvolutions(nn.Module):
    """``relu(s(x) + BN(conv(relu(BN(conv(x))))))``, s a 1 x 1 convolution with batch norm where sizes differ.

    Batch norm has running statistics, which tests use.

    Args:
        before: channels of x.
        channels: of the result, at half the side where they differ.

    Source: arXiv 1512.03385, section 3.
    """

    def __init__(self, before: int, channels: int):
        super().__init__()
        stride = 1 if before == channels else 2
        self.body = nn.Sequential(
            nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        shortcut = [nn.Conv2d(before, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)]
        self.shortcut = nn.Sequential(*shortcut) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.body(x))


def he_kernels(module: nn.Module) -> None:
    """Draw kernels as torchvision's residual networks do, Gaussian by fan-out (arXiv 1502.01852)."""
    reset_parameters(module)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


@register_module_task("shapes-resnet", batch_size=16)
def shapes_resnet(*, channels: int = 8, stages: int = 2) -> partial[ModuleTask]:
    """Residual network with batch norm that recognises eight drawn shapes, 16 x 16, in noise.

    Args:
        channels: of the first stage; each further one has twice as many at half the side.
        stages: of one residual block each.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    widths = [channels * 2**stage for stage in range(stages)]
    blocks = [ResidualConvolutions(before, own) for before, own in zip([channels, *widths], widths, strict=False)]
    module = nn.Sequential(
        nn.Unflatten(1, (1, 16)),
        nn.Conv2d(1, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], SHAPES),
    )
    return partial(ModuleTask, module, nn.functional.cross_entropy, shape_pictures(), init_fn=he_kernels)


class VisionTransformer(nn.Module):
    """Patches as vectors, a class token, places, blocks with LayerScale; classes from the token.

    Args:
        side: of the picture.
        patch: its side.
        width: features.
        blocks: how many.
        heads: of attention.
        scale: first value of LayerScale.

    Source: arXiv 2010.11929, section 3.1; LayerScale: arXiv 2103.17239.
    """

    def __init__(self, side: int, patch: int, *, width: int, blocks: int, heads: int, scale: float):
        super().__init__()
        self.patch, self.count = patch, (side // patch) ** 2
        self.enter = nn.Linear(patch**2, width)
        self.embed_token, self.embed_places = nn.Embedding(1, width), nn.Embedding(self.count + 1, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=False, scale=scale) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, TEXTURES)

    def forward(self, pictures: Tensor) -> Tensor:
        cut = pictures.unfold(1, self.patch, self.patch).unfold(2, self.patch, self.patch)
        patches = self.enter(cut.reshape(len(pictures), self.count, self.patch**2))
        token = self.embed_token.weight.expand(len(pictures), 1, -1)
        x = torch.cat([token, patches], 1) + self.embed_places.weight
        return self.head(self.norm(self.blocks(x))[:, 0])


def vision_weights(module: nn.Module) -> None:
    """Draw first weights as vision transformers' are: deviation .02, biases zero."""
    reset_parameters(module)
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(part.weight, std=DEVIATION)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


@register_module_task("textures-vit", batch_size=16)
def textures_vit(*, width: int = 32, blocks: int = 2, heads: int = 4, scale: Positive = 1e-4) -> partial[ModuleTask]:
    """Vision transformer with LayerScale that recognises six kinds of drawn textures, 16 x 16, in noise.

    Args:
        width: features of a patch of 4 x 4.
        blocks: attention and perceptron, each.
        heads: of attention.
        scale: first value of LayerScale.

    Raises:
        ValueError: a size that is not a positive integer; heads that do not divide the width.
    """
    module = VisionTransformer(16, 4, width=width, blocks=blocks, heads=heads, scale=float(scale))
    return partial(ModuleTask, module, nn.functional.cross_entropy, texture_pictures(), init_fn=vision_weights)


class SegmentationNet(nn.Module):
    """Two scales of convolutions with group norm, max-pooled down, brought up by transposed convolutions.

    ``[batch, side, side] -> [batch, kinds, side, side]``.

    Args:
        channels: at full resolution; twice as many at half of it, and four times at a quarter.
        kinds: of pixels.

    Source: arXiv 1505.04597, section 2.
    """

    def __init__(self, channels: int, kinds: int):
        super().__init__()

        def twice(before: int, after: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for own in (before, after):
                layers += [nn.Conv2d(own, after, 3, padding=1), nn.GroupNorm(4, after), nn.SiLU()]
            return nn.Sequential(*layers)

        fine, middle, coarse = channels, 2 * channels, 4 * channels
        self.down = nn.ModuleList([twice(1, fine), twice(fine, middle), twice(middle, coarse)])
        self.grow = nn.ModuleList([nn.ConvTranspose2d(coarse, middle, 2, 2), nn.ConvTranspose2d(middle, fine, 2, 2)])
        self.up = nn.ModuleList([twice(coarse, middle), twice(middle, fine)])
        self.leave = nn.Conv2d(fine, kinds, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        fine = self.down[0](pictures.unsqueeze(1))
        middle = self.down[1](nn.functional.max_pool2d(fine, 2))
        x = self.down[2](nn.functional.max_pool2d(middle, 2))
        for grow, up, beside in zip(self.grow, self.up, (middle, fine), strict=True):
            x = up(torch.cat([grow(x), beside], 1))
        return self.leave(x)


@register_module_task("cells-unet", batch_size=8)
def cells_unet(*, channels: int = 4) -> partial[ModuleTask]:
    """U-Net with group norm that separates ground, cells and their edges in drawn pictures, pixel by pixel.

    Args:
        channels: at full resolution, a multiple of 4.

    Raises:
        ValueError: a size that is not a positive integer; channels that four groups do not divide.
    """
    return partial(ModuleTask, SegmentationNet(channels, 3), nn.functional.cross_entropy, cell_pictures())


def binary_error(outputs: Tensor, greys: Tensor) -> Tensor:
    """Cross-entropy with grey values as probabilities, less that of the best outputs, mean over pixels, in nats."""
    least = nn.functional.binary_cross_entropy(greys, greys)
    return nn.functional.binary_cross_entropy_with_logits(outputs, greys) - least


@register_module_task("strokes-autoencoder", batch_size=32)
def strokes_autoencoder(*, hidden: int = 64, code: int = 12) -> partial[ModuleTask]:
    """Autoencoder with leaky ReLU and layer norm, 400 - hidden - code - hidden - 400, of drawn strokes of a pen.

    Args:
        hidden: units of each hidden layer.
        code: units of the narrowest layer.

    Raises:
        ValueError: a size that is not a positive integer.
    """
    module = nn.Sequential(
        nn.Linear(400, hidden),
        nn.LeakyReLU(0.1),
        nn.LayerNorm(hidden),
        nn.Linear(hidden, code),
        nn.Linear(code, hidden),
        nn.LeakyReLU(0.1),
        nn.LayerNorm(hidden),
        nn.Linear(hidden, 400),
    )
    return partial(ModuleTask, module, binary_error, stroke_pictures())
