"""Figures as SVG within a page: in the page's colours, in light and in dark, and with a text alternative."""

import io
import re
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from l2l_opt.evaluation.plots import GRID, LEARNED, OTHERS
from l2l_opt.inspection.pictures.figures import MUTED

COLOURS = {LEARNED: "--ink", GRID: "--grid", MUTED: "--muted"} | {
    colour: f"--line-{number}" for number, colour in enumerate(OTHERS, start=1)
}
"""Colour as drawn -> the page's own, which follows light and dark."""
SETTINGS: dict[Any, Any] = {
    # Outlines need no font of the reader's, and look the same everywhere; words are in the title and description.
    "svg.fonttype": "path",
    "svg.hashsalt": "l2l_opt",
}
IDENTIFIER = re.compile(r'(\bid="|href="#|url\(#)')


def inline_svg(figure: Figure, *, key: str, title: str, description: str) -> str:
    """Return an ``<svg>`` element that scales with its place.

    Args:
        figure: drawn in the colours of ``pictures``.
        key: begins all identifiers in it, so that two pictures on a page share none.
        title: its name, for those who do not see it.
        description: what is in it, likewise.
    """
    figure.patch.set_facecolor("none")
    for axis in figure.axes:
        axis.set_facecolor("none")
    content = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    text = text[text.index("<svg") :]
    opening, text = text.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', opening)
    assert view is not None
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = IDENTIFIER.sub(rf"\g<1>{key}-", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    return (
        f'<svg class="chart" role="img" aria-labelledby="{key}-title" aria-describedby="{key}-description" {view[0]} '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-description">{escape(description)}</desc>'
        f"{text.strip()}"
    )
