"""Add up what rules of single families have learned, a share of each.

    python -m scripts.experiments.default.merge_families runs/default --out runs/default/merged.safetensors

phi = phi_0 + sum over families of c (phi_f - phi_0), where phi_0 is the rule with nothing learned, phi_f the last rule
of a family's folder, and c a half: full changes overshoot (results/NOTEBOOK.md, entries 64 and 65). Source: averages of
weights, arXiv 2203.05482; differences of weights that are added up, arXiv 2212.04089.
"""

from collections.abc import Sequence
from pathlib import Path

import click

from l2l_opt import load_rule, save_rule
from l2l_opt.storage.named_rule import read_rule
from l2l_opt.types import Params
from scripts.experiments.default.meta_train_default import MERGED

SHARE = 0.5


def merged(start: Params, learned: Sequence[Params], share: float = SHARE) -> Params:
    """Return ``phi_0 + sum of c (phi_f - phi_0)``."""
    return {
        name: weight + sum((share * (own[name] - weight) for own in learned), start=weight.new_zeros(()))
        for name, weight in start.items()
    }


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(run: Path, out: Path) -> None:
    """Merge the rules of the families in the folder RUN, which `meta_train_default` wrote."""
    rule = read_rule("scale-free", seed=0)
    learned = [load_rule(run / name / "all" / "rule.safetensors").state_dict() for name in MERGED]
    rule.load_state_dict(merged(rule.state_dict(), learned))
    save_rule(rule, out, card={})


if __name__ == "__main__":
    main()
