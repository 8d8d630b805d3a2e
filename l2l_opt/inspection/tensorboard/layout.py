"""What TensorBoard's custom-scalars tab opens on: a chart a quantity, all tensors and all runs in it."""

from l2l_opt.inspection.measures.gates import GATES
from l2l_opt.inspection.measures.quantities import STATE_QUANTITIES

Layout = dict[str, dict[str, list]]


def unroll_layout() -> Layout:
    """Of an unroll, as ``UnrollMonitor`` tags it."""
    return {
        "Student": {"loss under each optimizer": _lines("Loss/student")},
        "Updates": {
            "update, root mean square": _lines("update_rms/.*"),
            "update over parameter": _lines("update_over_parameter/.*"),
            "step size by kind of tensor": _lines("step_size/.*"),
            "effective learning rate": _lines("effective_lr/.*"),
            "gradient, root mean square": _lines("gradient_rms/.*"),
        },
        "Directions": {
            "cosine with the negative gradient": _lines("cosine_with_descent/.*"),
            "cosine with Adam's update": _lines("cosine_with_adam/.*"),
        },
        "Gates": {
            f"{gate} gates {end}": _lines(f"gate_{gate}_{end}/.*") for gate in GATES for end in ("closed", "open")
        },
        "Hidden state": {
            f"{key}, {quantity}": _lines(f"state_{key}_{quantity}/.*")
            for key in ("hidden", "cell")
            for quantity in STATE_QUANTITIES
        },
    }


def meta_training_layout() -> Layout:
    """Of a meta-training run, as ``MetaTrainingLog`` tags it."""
    return {
        "Meta-training": {
            "meta-loss": _lines("meta/loss"),
            "validation metric with its 95 % interval": [
                "Margin",
                ["validation/figure", "validation/low", "validation/high"],
            ],
            "student's loss at each validation": _lines("Loss/student"),
        },
        "Meta-gradient": {
            "norm before clipping": _lines("meta/gradient_norm"),
            "norm by tensor of the rule": _lines("meta_gradient_norm/.*"),
            "norm by inner step of the window": _lines("meta_gradient/by_position"),
            "skipped outer steps": _lines("meta/skipped"),
        },
        "Curriculum": {
            "horizon": _lines("students/horizon_.*"),
            "inner steps of students": _lines("students/age_.*"),  # Tags keep the names of 0.1, so that runs go on.
            "meta-learning rate": _lines("meta/lr"),
        },
        "Throughput": {
            "seconds an outer step": _lines("meta/seconds"),
            "coordinates a second": _lines("meta/coordinates_per_second"),
        },
    }


def _lines(tag: str) -> list:
    return ["Multiline", [tag]]
