"""Sections as one HTML page, by a template; everything that it shows is within it."""

from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from l2l_opt.inspection.report.parts import Section
from l2l_opt.inspection.report.vector_graphics import inline_svg
from l2l_opt.version import __version__

FOLDER = files("l2l_opt.inspection.report")


def render(title: str, summary: str, sections: Sequence[Section], *, command: str) -> str:
    """Return the page.

    Args:
        title: its heading.
        summary: a sentence below it.
        sections: in order.
        command: that made it.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((FOLDER / "report.html.jinja").read_text(encoding="utf-8"))
    drawn = {
        (section.key, number): Markup(
            inline_svg(chart.figure, key=f"{section.key}-{number}", title=chart.title, description=chart.description)
        )
        for section in sections
        for number, chart in enumerate(section.charts)
    }
    style = Markup((FOLDER / "report.css").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        summary=summary,
        sections=sections,
        drawn=drawn,
        style=style,
        command=command,
        version=__version__,
    )
