"""Generated "no image available" pictures in many styles, and product pictures as shops show them; 28 x 28, grey."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIDE = 28
SCALE = 3
"""Pictures are drawn this many times as large, so that lines are smooth."""

WORDINGS = (
    "no image",
    "no photo",
    "image not\navailable",
    "coming\nsoon",
    "n/a",
    "no picture\nyet",
    "kein Bild",
    "sin foto",
)


@dataclass(frozen=True)
class _Canvas:
    """What a style draws on: a Pillow drawing, its side, a generator, and two grey values that can be distinguished."""

    draw: Any
    side: int
    random: np.random.Generator
    paper: int
    ink: int

    def place(self, share: float) -> tuple[float, float, float, float]:
        """A box of about that share of the side, somewhere near the middle."""
        size = self.side * share * self.random.uniform(0.8, 1.2)
        x, y = (self.side - size) / 2 + self.random.uniform(-0.1, 0.1, 2) * self.side
        return x, y, x + size, y + size

    @property
    def width(self) -> int:
        return int(self.random.integers(2, 7))


def _text(canvas: _Canvas, words: str, size: float) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    left, top, right, bottom = canvas.draw.multiline_textbbox((0, 0), words, font=font, align="center")
    x, y = canvas.random.uniform(0.35, 0.65, 2) * canvas.side
    place = (x - (left + right) / 2, y - (top + bottom) / 2)
    canvas.draw.multiline_text(place, words, fill=canvas.ink, font=font, align="center")


def _words(canvas: _Canvas) -> None:
    _text(canvas, str(canvas.random.choice(WORDINGS[:4])), canvas.random.uniform(10, 18))


def _large_words(canvas: _Canvas) -> None:
    _text(canvas, str(canvas.random.choice(WORDINGS[4:])), canvas.random.uniform(20, 32))


def _question_mark(canvas: _Canvas) -> None:
    _text(canvas, "?", canvas.random.uniform(40, 75))


def _camera(canvas: _Canvas) -> None:
    x, y, right, bottom = canvas.place(0.55)
    size = right - x
    canvas.draw.rounded_rectangle((x, y + 0.2 * size, right, bottom - 0.1 * size), size * 0.1, fill=canvas.ink)
    canvas.draw.rectangle((x + 0.3 * size, y + 0.08 * size, x + 0.6 * size, y + 0.25 * size), fill=canvas.ink)
    canvas.draw.ellipse((x + 0.3 * size, y + 0.32 * size, x + 0.7 * size, y + 0.72 * size), fill=canvas.paper)


def _crossed_camera(canvas: _Canvas) -> None:
    _camera(canvas)
    canvas.draw.line((0.15 * canvas.side, 0.85 * canvas.side, 0.85 * canvas.side, 0.15 * canvas.side), canvas.ink, 5)


def _crossed_box(canvas: _Canvas) -> None:
    x, y, right, bottom = canvas.place(0.75)
    width = canvas.width
    canvas.draw.rectangle((x, y, right, bottom), outline=canvas.ink, width=width)
    canvas.draw.line((x, y, right, bottom), canvas.ink, width)
    canvas.draw.line((x, bottom, right, y), canvas.ink, width)


def _forbidden(canvas: _Canvas) -> None:
    x, y, right, bottom = canvas.place(0.65)
    width, inset = canvas.width + 3, (right - x) * 0.15
    canvas.draw.ellipse((x, y, right, bottom), outline=canvas.ink, width=width)
    canvas.draw.line((x + inset, y + inset, right - inset, bottom - inset), canvas.ink, width)


def _border(canvas: _Canvas) -> None:
    inset = canvas.random.uniform(0, 0.2) * canvas.side
    box = (inset, inset, canvas.side - inset, canvas.side - inset)
    canvas.draw.rectangle(box, outline=canvas.ink, width=canvas.width)


def _landscape(canvas: _Canvas) -> None:
    x, y, right, bottom = canvas.place(0.7)
    size = right - x
    canvas.draw.rectangle((x, y, right, bottom), outline=canvas.ink, width=canvas.width)
    canvas.draw.polygon([(x, bottom), (x + 0.35 * size, y + 0.4 * size), (x + 0.7 * size, bottom)], fill=canvas.ink)
    canvas.draw.polygon([(x + 0.5 * size, bottom), (x + 0.75 * size, y + 0.6 * size), (right, bottom)], fill=canvas.ink)
    canvas.draw.ellipse((x + 0.62 * size, y + 0.15 * size, x + 0.85 * size, y + 0.38 * size), fill=canvas.ink)


def _logo_ring(canvas: _Canvas) -> None:
    x, y, right, bottom = canvas.place(0.6)
    canvas.draw.ellipse((x, y, right, bottom), fill=canvas.ink)
    inset = (right - x) * canvas.random.uniform(0.15, 0.3)
    canvas.draw.ellipse((x + inset, y + inset, right - inset, bottom - inset), fill=canvas.paper)


def _logo_polygon(canvas: _Canvas) -> None:
    x, y, right, _ = canvas.place(0.7)
    radius = (right - x) / 2
    sides = int(canvas.random.integers(3, 7))
    canvas.draw.regular_polygon((x + radius, y + radius, radius), sides, canvas.random.uniform(0, 90), fill=canvas.ink)


def _logo_letter(canvas: _Canvas) -> None:
    x, y, right, bottom = canvas.place(0.7)
    canvas.draw.rounded_rectangle((x, y, right, bottom), (right - x) * 0.2, outline=canvas.ink, width=canvas.width)
    _text(canvas, str(canvas.random.choice(list("ABEGKMRSW"))), canvas.random.uniform(25, 45))


def _checkerboard(canvas: _Canvas) -> None:
    size = canvas.side / int(canvas.random.integers(4, 12))
    for row in range(13):
        for column in range(row % 2, 13, 2):
            x, y = column * size, row * size
            canvas.draw.rectangle((x, y, x + size - 1, y + size - 1), fill=canvas.ink)


def _stripes(canvas: _Canvas) -> None:
    step = canvas.random.uniform(8, 20)
    for number in range(-12, 30):
        x = number * step
        canvas.draw.line((x, 0, x + canvas.side, canvas.side), canvas.ink, max(int(step / 3), 1))


def _gradient(canvas: _Canvas) -> None:
    upright = canvas.random.uniform() < 0.5
    for place in range(canvas.side):
        grey = round(canvas.paper + (canvas.ink - canvas.paper) * place / canvas.side)
        canvas.draw.line((0, place, canvas.side, place) if upright else (place, 0, place, canvas.side), grey)


def _vignette(canvas: _Canvas) -> None:
    middle = canvas.side / 2
    for place in range(canvas.side // 2 + 12, 0, -1):
        grey = round(canvas.paper + (canvas.ink - canvas.paper) * place / (middle + 12))
        canvas.draw.ellipse((middle - place, middle - place, middle + place, middle + place), fill=grey)


def _plain(canvas: _Canvas) -> None:
    """One grey."""


def _hanger(canvas: _Canvas) -> None:
    x, y, right, bottom = canvas.place(0.75)
    middle, size, width = (x + right) / 2, right - x, canvas.width
    shoulders = [(middle, y + 0.3 * size), (x, bottom - 0.2 * size), (right, bottom - 0.2 * size)]
    canvas.draw.polygon(shoulders, outline=canvas.ink, width=width)
    canvas.draw.arc((middle - 0.1 * size, y, middle + 0.1 * size, y + 0.25 * size), 150, 450, canvas.ink, width)


def _person(canvas: _Canvas) -> None:
    x, y, right, bottom = canvas.place(0.7)
    size = right - x
    canvas.draw.ellipse((x + 0.3 * size, y, x + 0.7 * size, y + 0.4 * size), fill=canvas.ink)
    canvas.draw.pieslice((x, y + 0.45 * size, right, bottom + 0.5 * size), 180, 360, fill=canvas.ink)


def _spinner(canvas: _Canvas) -> None:
    x, y, right, bottom = canvas.place(0.5)
    start = canvas.random.uniform(0, 360)
    canvas.draw.arc((x, y, right, bottom), start, start + canvas.random.uniform(200, 320), canvas.ink, canvas.width + 3)


def _dots(canvas: _Canvas) -> None:
    radius = canvas.random.uniform(3, 7)
    for place in (0.25, 0.5, 0.75):
        x, y = place * canvas.side, canvas.side / 2
        canvas.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=canvas.ink)


def _framed_words(canvas: _Canvas) -> None:
    _border(canvas)
    _words(canvas)


def _banner(canvas: _Canvas) -> None:
    top = canvas.random.uniform(0.3, 0.6) * canvas.side
    canvas.draw.rectangle((0, top, canvas.side, top + canvas.random.uniform(0.15, 0.35) * canvas.side), fill=canvas.ink)


def _clock(canvas: _Canvas) -> None:
    x, y, right, bottom = canvas.place(0.65)
    middle = ((x + right) / 2, (y + bottom) / 2)
    canvas.draw.ellipse((x, y, right, bottom), outline=canvas.ink, width=canvas.width)
    canvas.draw.line((*middle, middle[0], y + 0.2 * (bottom - y)), canvas.ink, 4)
    canvas.draw.line((*middle, x + 0.75 * (right - x), middle[1]), canvas.ink, 4)


STYLES: dict[str, Callable[[_Canvas], None]] = {
    function.__name__.removeprefix("_").replace("_", "-"): function
    for function in (
        *(_words, _question_mark, _camera, _crossed_box, _border, _landscape, _logo_ring, _checkerboard),
        *(_gradient, _plain, _hanger, _spinner, _banner, _logo_polygon),
        *(_large_words, _crossed_camera, _forbidden, _logo_letter, _stripes, _vignette, _person, _dots),
        *(_framed_words, _clock),
    )
}
"""By name. The first 14 are for development, meta-training and base models, the others for reports."""


def render_placeholder(style: str, random: np.random.Generator) -> Tensor:
    """A picture ``[28, 28]`` in 0 to 1.

    Args:
        style: one of ``STYLES``.
        random: of colours, places, sizes and words.

    Raises:
        ValueError: an unknown style.
    """
    from PIL import Image, ImageDraw

    if style not in STYLES:
        raise ValueError(f"a style must be one of {', '.join(STYLES)}; got {style!r}")
    side = SIDE * SCALE
    paper = int(random.integers(0, 256))
    ink = int(np.clip(paper + random.choice([-1, 1]) * random.integers(40, 160), 0, 255))
    ink = ink if abs(ink - paper) >= 30 else (paper + 128) % 256
    image = Image.new("L", (side, side), paper)
    STYLES[style](_Canvas(ImageDraw.Draw(image), side, random, paper, ink))
    return _as_stored(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255, random)


def render_placeholders(styles: Sequence[str], count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pictures ``[count, 28, 28]``, and for each the place of its style, drawn evenly."""
    chosen = random.permutation(np.arange(count) % len(styles))
    return torch.stack([render_placeholder(styles[int(place)], random) for place in chosen]), torch.from_numpy(chosen)


def as_in_a_shop(images: Tensor, random: np.random.Generator) -> Tensor:
    """Product pictures on other grounds, some with a badge or a frame, which alone are no placeholder.

    Args:
        images: ``[images, 28, 28]`` in 0 to 1, the ground 0.
        random: of grounds, contrasts and badges.
    """
    return torch.stack([_shown(np.asarray(image, dtype=np.float64), random) for image in images])


def _shown(image: np.ndarray, random: np.random.Generator) -> Tensor:
    contrast = random.uniform(0.4, 1)
    ground = random.uniform(0, 1 - contrast)
    shown = ground + contrast * (1 - image if random.uniform() < 0.6 else image)
    kind = random.uniform()
    if kind < 0.12:
        x, y = random.integers(0, 20, 2)
        shown[y : y + random.integers(3, 7), x : x + random.integers(4, 9)] = random.uniform()
    elif kind < 0.24:
        width = int(random.integers(1, 3))
        grey = random.uniform()
        shown[:width], shown[-width:], shown[:, :width], shown[:, -width:] = grey, grey, grey, grey
    return _as_stored(shown, random)


def _as_stored(values: np.ndarray, random: np.random.Generator) -> Tensor:
    """With the noise of a lossy file, in 256 steps."""
    noisy = values + random.choice([0.0, 0.005, 0.02]) * random.normal(size=values.shape)
    return torch.from_numpy(np.round(noisy.clip(0, 1) * 255) / 255).float()
