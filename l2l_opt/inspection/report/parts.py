"""What a report is made of: sections with charts, tables and lists of facts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from l2l_opt.evaluation.tables import Table


@dataclass(frozen=True)
class Chart:
    """A picture, in words too.

    Attributes:
        title: what it is.
        description: what one would see in it.
        figure: as matplotlib has drawn it, in the colours of ``inspection.pictures``.
        table: the same in numbers; None where ``description`` has it all.
    """

    title: str
    description: str
    figure: Figure
    table: Table | None = None


@dataclass(frozen=True)
class Section:
    """One idea.

    Attributes:
        key: its anchor.
        title: its heading.
        lead: a sentence about it.
        facts: name and value of each.
        charts: pictures.
        tables: numbers.
    """

    key: str
    title: str
    lead: str = ""
    facts: Sequence[tuple[str, str]] = ()
    charts: Sequence[Chart] = field(default_factory=list)
    tables: Sequence[Table] = field(default_factory=list)
