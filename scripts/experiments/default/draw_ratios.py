"""Draw how the default rule compares with tuned AdamW and tuned Muon, task by task, on training and on test batches.

    python -m scripts.experiments.default.draw_ratios results/default/seen/evaluation.json

Writes ratios.svg beside the file: loss ratios (baseline over rule, above 1 the rule is better) at the first of its
horizons, cut off at a factor of three, since ratios of memorised losses mean nothing.
"""

import json
from pathlib import Path

import click
import numpy as np

BASELINES = {"adamw": "tuned AdamW", "muon": "tuned Muon"}
COLOURS, MARKERS, SIZES = {"adamw": "C3", "muon": "C0"}, {"adamw": "o", "muon": "D"}, {"adamw": 70, "muon": 18}
"""The second is small, so that it hides nothing of the first."""
TITLES = {
    "verse-transformer": "transformer, text",
    "verse-lstm": "LSTM, text",
    "picture-mixer": "MLP-Mixer, pictures",
    "picture-denoising": "U-shaped net, pictures",
    "picture-vae": "autoencoder, pictures",
    "picture-siren": "network of sines",
    "signals-conv": "convolutions, signals",
    "sets-attention": "attention, sets",
    "graph-convolution": "graph network",
    "ratings-factorisation": "recommender",
    "spirals-flow": "normalising flow",
    "breast-cancer-mlp": "table of 569 rows",
    "breast-cancer-residual": "residual net, table of 569",
    "diabetes-mlp": "regression, table of 442",
    "wine-mlp": "table of 178 rows",
    "adverbs-gpt": "GPT, text",
    "textures-vit": "vision transformer, textures",
    "strokes-autoencoder": "autoencoder, strokes of a pen",
    "clicks-recommender": "recommender",
    "shapes-resnet": "ResNet, pictures",
    "cells-unet": "U-Net, cells",
    "language-recurrent": "recurrent, text",
    "language-lora": "LoRA fine-tuning",
    "pendulum": "policy of a pendulum",
    "loans-mlp": "table of 100 rows",
    "patients-mlp": "table of 1,000 rows",
    "visitors-bins": "table of 10,000 rows",
    "terrain-field": "field of a terrain",
    "graphs-isomorphism": "graph network, isomorphism",
    "skewed-quantiles": "quantile regression",
    "pieces-experts": "mixture of experts",
    "series-recurrence": "linear recurrence, series",
}
MOST = 3.0


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "l2l_opt"
    import matplotlib.pyplot as plt

    results = json.loads(file.read_text())["results"]
    horizon = min(result["horizon"] for result in results)
    means = {
        (result["task"].partition(":")[0], result["optimizer"]): (result["mean"], result["test_mean"])
        for result in results
        if result["horizon"] == horizon
    }
    tasks = [task for task in TITLES if (task, "learned") in means][::-1]
    figure, panels = plt.subplots(1, 2, figsize=(9, 0.3 * len(tasks) + 1.2), sharey=True, layout="constrained")
    for index, (panel, split) in enumerate(zip(panels, ("training loss", "test loss"), strict=True)):
        for name, label in BASELINES.items():
            rows = [row for row, task in enumerate(tasks) if (task, name) in means]
            ratios = [means[tasks[row], name][index] / means[tasks[row], "learned"][index] for row in rows]
            marks = {"color": COLOURS[name], "marker": MARKERS[name], "s": SIZES[name]}
            panel.scatter(np.clip(ratios, 1 / MOST, MOST), rows, **marks, label=label, zorder=3)
        panel.axvline(1, color="grey", lw=1)
        panel.axvspan(1, MOST * 1.1, color="C2", alpha=0.08)
        panel.set(xscale="log", xlim=(1 / MOST / 1.1, MOST * 1.1), title=f"{split}, {horizon} steps")
        panel.set_xticks([1 / MOST, 0.5, 1, 2, MOST], ["1/3", "1/2", "1", "2", "3"], minor=False)
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
    panels[0].set_yticks(range(len(tasks)), [TITLES[task] for task in tasks])
    figure.supxlabel("loss ratio, the tuned baseline's over the rule's: in green the rule is better", fontsize=10)
    panels[1].legend(loc="lower right", fontsize=8)
    figure.savefig(file.with_name("ratios.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
