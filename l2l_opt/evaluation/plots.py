"""Training curves: log loss against steps, the mean over seeds and a band."""

import io

import matplotlib
import numpy as np

from l2l_opt.evaluation.results import Result

matplotlib.use("Agg")

from matplotlib import pyplot


def curves_png(results: list[Result]) -> bytes:
    """One panel a horizon; bands reach from the lowest to the highest seed, a learned rule is drawn bold."""
    horizons = list(dict.fromkeys(result.horizon for result in results))
    figure, axes = pyplot.subplots(1, len(horizons), figsize=(6.4 * len(horizons), 4.4), squeeze=False)
    for axis, horizon in zip(axes[0], horizons, strict=True):
        for index, result in enumerate(result for result in results if result.horizon == horizon):
            learned = result.optimizer == "learned"
            settings = "" if learned else f" (lr {result.settings['lr']:.2g})"
            style = {"color": "black", "linewidth": 2.2, "zorder": 3} if learned else {"color": f"C{index - 1}"}
            steps = np.arange(horizon)
            axis.plot(steps, result.curves.mean(axis=1), label=result.optimizer + settings, **style)
            low, high = result.curves.min(axis=1), result.curves.max(axis=1)
            axis.fill_between(steps, low, high, color=style["color"], alpha=0.12, linewidth=0)
        axis.set_yscale("log")
        axis.set_xlabel("step")
        axis.set_ylabel("training loss (mean and range over seeds)")
        axis.set_title(f"{results[0].task}, {horizon} steps")
        axis.grid(alpha=0.25, which="both")
        axis.legend(fontsize=8)
    figure.tight_layout()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    pyplot.close(figure)
    return content.getvalue()
