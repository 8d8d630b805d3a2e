"""Students whose data are generated."""

from l2l_opt.tasks.synthetic import (
    clusters_and_networks,
    flow,
    flow_sampler,
    gated,
    graph,
    least_squares,
    quadratics,
    regressions,
    sets,
    signals,
    small_graphs,
    terrain,
)

__all__ = [
    "clusters_and_networks",
    "flow",
    "flow_sampler",
    "gated",
    "graph",
    "least_squares",
    "quadratics",
    "regressions",
    "sets",
    "signals",
    "small_graphs",
    "terrain",
]
