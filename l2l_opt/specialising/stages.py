"""What a specialisation meta-trains, for each kind of rule: few weights before many, with a rate that moves them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One meta-training among those that a specialisation is made of.

    Attributes:
        estimator: of the meta-gradient, as ``meta-train --estimator`` has it.
        share: of the time there is.
        students: side by side, where there is time for enough outer steps of them.
        truncation_length: inner steps of a window at most; the horizon is a multiple of it.
        meta_lr: AdamW's learning rate on the rule's weights, with a cosine.
        average_phi: decay of the average of the rule's weights that is kept.
        most_outer_steps: time for more of them is spent on twice the students.
    """

    estimator: str
    share: float = 1.0
    students: int = 32
    truncation_length: int = 50
    meta_lr: float = 0.005
    average_phi: float = 0.95
    most_outer_steps: int = 600


STAGES: dict[str, tuple[Stage, ...]] = {
    # Signal is strong at the 102 weights of the heads; all 837 move less, and later. Ranks, so that no few students
    # decide that differ most.
    "scale-free": (
        Stage("nres:sigma=0.1,only=choices,balance=ranks", share=0.6),
        Stage("nres:sigma=0.03,balance=ranks", share=0.4, meta_lr=0.002),
    ),
    "compact": (
        Stage("tbptt:second_derivatives=True,clip_window=10", share=1.0, students=4, meta_lr=0.001, average_phi=0.9),
    ),
}
OTHERS = (Stage("tbptt:clip_window=10", students=8, truncation_length=20, meta_lr=0.001, average_phi=0.9),)
"""Of any other rule: the paper's truncated back-propagation."""


def stages_of(rule_name: str | None) -> tuple[Stage, ...]:
    """Look up the stages of a rule by its name in the registry."""
    return STAGES.get(rule_name or "", OTHERS)
