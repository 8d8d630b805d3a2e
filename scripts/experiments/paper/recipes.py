"""What makes up the paper's figures: settings, baselines, and how each artefact is meta-trained."""

from dataclasses import dataclass

import torch

from l2l_opt.evaluation.baselines.tuning import Baseline
from scripts.experiments.paper.figures import Figure, Setting
from scripts.experiments.records import RESULTS

BASELINES = (
    Baseline("sgd", "sgd", range(-4, 3)),
    Baseline("nag", "momentum", range(-5, 2), {"momentum": 0.9, "nesterov": True}),
    Baseline("rmsprop", "rmsprop", range(-7, 0)),
    Baseline("adam", "adam", range(-7, 0)),
    Baseline("adam-cosine", "adam", range(-6, 1), {"schedule": "cosine"}),
)

QUADRATICS = Setting(
    "Quadratics",
    "quadratics:dim=10",
    100,
    {"lstm": 0.042, "adam": 0.054, "rmsprop": 0.063, "nag": 0.084, "sgd": 0.22},
    seeds=200,
    tuning_seeds=100,
    dtype=torch.float64,
)
MNIST = Setting("MNIST", "mnist-mlp", 100, {"lstm": 0.26, "adam": 0.36, "rmsprop": 0.36, "nag": 0.33, "sgd": 0.47})
SHIFTS = (
    Setting("200 steps", "mnist-mlp", 200, {"lstm": 0.21, "adam": 0.30, "rmsprop": 0.29, "nag": 0.26, "sgd": 0.33}),
    Setting(
        "40 units", "mnist-mlp:hidden=40", 100, {"lstm": 0.19, "adam": 0.33, "rmsprop": 0.32, "nag": 0.31, "sgd": 0.45}
    ),
    Setting(
        "2 layers", "mnist-mlp:layers=2", 100, {"lstm": 0.33, "adam": 0.71, "rmsprop": 0.74, "nag": 0.77, "sgd": 1.78}
    ),
    Setting(
        "ReLU", "mnist-mlp:activation=relu", 100, {"lstm": 2.6, "adam": 0.37, "rmsprop": 0.40, "nag": 0.37, "sgd": 0.44}
    ),
    Setting("1,000 steps", "mnist-mlp", 1000, {}),
)
CONV = "cifar10-conv:channels=8,batch_size=64"
"""Half the paper's channels and batch, so that a student's step takes 20 ms instead of 62."""
CIFAR = (
    Setting("CIFAR-10", CONV, 100, {}, rerun=3),
    Setting(
        "CIFAR-10, 1,000 steps",
        CONV,
        1000,
        {},
        seeds=5,
        tuning_seeds=2,
        halvings=1,
        rates=3,
        baselines=("nag", "adam", "adam-cosine"),
        rerun=0,
    ),
)
ART = (
    Setting("same style, 64 pixels", "neural-art:side=64,style=swirls,photo=flower", 128, {}, rerun=3),
    Setting(
        "another style, 128 pixels",
        "neural-art:side=128,style=mosaic,photo=flower",
        128,
        {},
        tuning_seeds=4,
        rerun=0,
    ),
)
"""Contents of a photograph that meta-training has not seen."""


@dataclass(frozen=True)
class MetaTraining:
    """A run of ``l2l-opt meta-train``.

    Attributes:
        rule: a fresh rule, or the artefact of another run here to go on from.
        options: of the command.
    """

    rule: str
    options: str


ON_MNIST = "--task mnist-mlp --horizon 100 --validation-students 8"
ON_CIFAR = f"--task {CONV} --horizon 100 --validation-students 4"
ANNEALED = "--meta-lr-schedule cosine --normalisation log"
EXACT = "--second-derivatives --meta-loss linear"
"""Gradients of students are differentiated too, and late steps count more."""
WHOLE = "--truncation-length 100 --normalisation log --meta-loss mean"
"""A window is the whole run, so that no step is worth only what the next few losses gain by it."""
SAMPLED = "--estimator tbptt:coordinate_stride=9 --meta-lr-schedule cosine"


COMPACT = ("mnist-compact", "mnist-compact-1", "mnist-compact-2")
LSTM = ("mnist-lstm-2", "mnist-lstm-2-seed-1", "mnist-lstm-2-seed-2")
"""Three seeds; the first one's windows of the whole run are two stages, of the others one."""
WINDOW_20 = (
    f"{ON_MNIST} --staggered --students 4 --validate-every 100 --meta-lr 0.003 --meta-lr-schedule cosine "
    "--outer-steps 2800"
)
WHOLE_RUNS = (
    f"--task mnist-mlp --horizon 100 --validation-students 16 {SAMPLED} --students 2 {WHOLE} --meta-lr 0.0005 "
    "--average-phi 0.98 --outer-steps 1100 --validate-every 50"
)
LATE_STEPS = (
    f"--task mnist-mlp --horizon 100 --validation-students 16 {SAMPLED} --students 2 --truncation-length 100 "
    "--normalisation log --meta-loss linear --meta-lr 0.0003 --average-phi 0.95 --outer-steps 300 --validate-every 25"
)
"""The three stages of the LSTM on MNIST."""


def of_seed(name: str, seed: int) -> dict[str, MetaTraining]:
    """Return the stages of the LSTM on MNIST from another seed, the last under the name."""
    return {
        f"{name}-window-20": MetaTraining("lstm", f"{WINDOW_20} --seed {seed}"),
        f"{name}-whole": MetaTraining(f"{name}-window-20", f"{WHOLE_RUNS} --seed {seed}"),
        name: MetaTraining(f"{name}-whole", f"{LATE_STEPS} --seed {seed}"),
    }


META_TRAINING = {
    "quadratics-lstm": MetaTraining(
        "lstm",
        "--task quadratics:dim=10 --horizon 100 --staggered --students 128 --meta-lr 0.003 --meta-lr-schedule cosine "
        "--outer-steps 6000 --validate-every 200 --validation-students 128",
    ),
    "quadratics-compact": MetaTraining(
        "compact:output_scale=0.3",
        f"--task quadratics:dim=10 --horizon 100 --staggered --students 64 --truncation-length 50 {EXACT} {ANNEALED} "
        "--meta-lr 0.003 --outer-steps 200 --validate-every 25 --validation-students 128 --seed 0",
    ),
    "mnist-lstm-window-20": MetaTraining("lstm", f"{WINDOW_20} --seed 0"),
    "mnist-lstm-paper": MetaTraining("lstm", "--config scripts/experiments/paper/paper_lstm.toml --seed 0"),
    "mnist-rnnprop": MetaTraining(
        "rnnprop:hidden_size=10,num_layers=1",
        f"{ON_MNIST} {ANNEALED} --seed 0 --staggered --truncation-length 50 --students 4 --validate-every 50 "
        "--reparametrise 0.2..5 --meta-loss mean --meta-lr 0.002 --outer-steps 800",
    ),
    "mnist-lstm": MetaTraining(
        "mnist-lstm-window-20",
        f"{ON_MNIST} {SAMPLED} --students 2 {WHOLE} --meta-lr 0.0005 --average-phi 0.9 --outer-steps 350 "
        "--validate-every 50 --seed 0",
    ),
    "mnist-lstm-whole": MetaTraining("mnist-lstm", f"{WHOLE_RUNS} --seed 0"),
    "mnist-lstm-2": MetaTraining("mnist-lstm-whole", f"{LATE_STEPS} --seed 0"),
    **of_seed(LSTM[1], 1),
    **of_seed(LSTM[2], 2),
    "cifar-lstms": MetaTraining(
        "composed",
        f"{ON_CIFAR} {ANNEALED} --seed 0 --staggered --students 2 --meta-loss mean --meta-lr 0.003 --average-phi 0.9 "
        "--outer-steps 350 --validate-every 50",
    ),
    "cifar-lstms-2": MetaTraining(
        "cifar-lstms",
        f"{ON_CIFAR} {WHOLE} --meta-lr-schedule cosine --seed 0 --students 2 --meta-lr 0.001 --average-phi 0.98 "
        "--outer-steps 500 --validate-every 25",
    ),
    "cifar-lstms-3": MetaTraining(
        "cifar-lstms-2",
        f"{ON_CIFAR} {WHOLE} --meta-lr-schedule cosine --seed 1 --students 2 --meta-lr 0.0007 --average-phi 0.98 "
        "--outer-steps 500 --validate-every 25",
    ),
    "cifar-lstms-long": MetaTraining(
        "cifar-lstms-2",
        f"--task {CONV} --horizon 100..1000 --staggered {WHOLE} --meta-lr-schedule cosine --seed 0 --students 2 "
        "--meta-lr 0.0005 --average-phi 0.98 --outer-steps 300 --validate-every 100 --validation-students 2",
    ),
    "cifar-compact": MetaTraining(
        "compact:output_scale=0.1",
        f"{ON_CIFAR} {ANNEALED} --students 1 --seed 0 --staggered --truncation-length 50 {EXACT} --meta-lr 0.003 "
        "--outer-steps 240 --validate-every 40",
    ),
    "art-lstm": MetaTraining(
        "lstm",
        "--task neural-art:side=64,style=swirls,photo=temple --horizon 128 --truncation-length 32 --students 2 "
        "--staggered --estimator tbptt:coordinate_stride=9 --normalisation log --meta-loss mean --meta-lr 0.002 "
        "--meta-lr-schedule cosine --average-phi 0.95 --outer-steps 400 --validate-every 25 --validation-students 4",
    ),
    "art-lstm-2": MetaTraining(
        "art-lstm",
        "--task neural-art:side=64,style=swirls,photo=temple --horizon 128 --truncation-length 128 --students 2 "
        f"{SAMPLED} --normalisation log --meta-loss mean --meta-lr 0.0005 --average-phi 0.98 --outer-steps 600 "
        "--validate-every 25 --validation-students 4",
    ),
    "art-lstm-3": MetaTraining(
        "art-lstm-2",
        "--task neural-art:side=64,style=swirls,photo=temple --horizon 128 --truncation-length 128 --students 4 "
        f"{SAMPLED} --normalisation log --meta-loss linear --meta-lr 0.0005 --average-phi 0.95 --outer-steps 400 "
        "--validate-every 25 --validation-students 8",
    ),
    **{
        f"{name}-first": MetaTraining(
            "compact:output_scale=0.3",
            f"{ON_MNIST} --students 2 --second-derivatives {ANNEALED} --seed {seed} --staggered --truncation-length 50 "
            "--meta-loss mean --meta-lr 0.003 --outer-steps 80 --validate-every 20",
        )
        for seed, name in enumerate(COMPACT)
    },
    **{
        name: MetaTraining(
            f"{name}-first",
            f"{ON_MNIST} --students 2 {EXACT} {ANNEALED} --seed {seed} --truncation-length 100 --meta-lr 0.001 "
            "--outer-steps 350 --validate-every 25",
        )
        for seed, name in enumerate(COMPACT)
    },
}
"""Runs of ``l2l-opt meta-train`` that artefacts come from."""
ELSEWHERE = {"compact-elsewhere": RESULTS / "long_horizons" / "artefacts" / "nres.safetensors"}
"""Artefacts that were meta-trained for more than these figures: on digits and 8 x 8 Fashion-MNIST, never on MNIST."""
RULES_OF_MNIST = (
    *LSTM,
    "mnist-lstm-whole",
    "mnist-lstm",
    "mnist-lstm-paper",
    "mnist-lstm-window-20",
    "mnist-rnnprop",
    *COMPACT,
    "compact-elsewhere",
)
HIDDEN_ON_MNIST = (*LSTM[1:], "mnist-lstm-whole", "mnist-lstm", "mnist-lstm-window-20", *COMPACT[1:])
"""Of each rule the first is drawn, beside the paper's own recipe and what learned on other tasks."""
FIGURES = {
    "quadratics": Figure(
        ("quadratics-lstm", "quadratics-compact"),
        (QUADRATICS,),
        note="In float64, since in float32 losses near zero depend on how a processor rounds; the last steps of a run "
        "depend on it in float64 too, and so on how many students share a batch. Single hard quadratics make much of "
        "each mean, so that the paper's, over others, is not to be compared digit by digit.",
    ),
    "mnist": Figure(
        RULES_OF_MNIST,
        (MNIST,),
        hidden=HIDDEN_ON_MNIST,
        seeds=(COMPACT, LSTM),
        note="`mnist-lstm-paper` is meta-trained as the paper's rule was: 50,000 updates, each of a window of 20 steps "
        "of one student ([its validation against hours](mnist/meta-training.png)); beside the paper its rate falls as "
        "a cosine, and students stand at all steps of their runs. `mnist-lstm-window-20` is what `mnist-lstm` begins "
        "from, in windows of 20 steps of four students; `mnist-lstm`, `-whole` and `-2` go on in windows of the whole "
        "run. `mnist-lstm-2` is the rule that ships as `lstm-2`, the best of three seeds; its own had one more stage.",
    ),
    "mnist-shifts": Figure(
        RULES_OF_MNIST,
        SHIFTS,
        hidden=HIDDEN_ON_MNIST,
        seeds=(COMPACT, LSTM),
    ),
    "neural-art": Figure(
        ("art-lstm-3", "art-lstm-2", "art-lstm"),
        ART,
        hidden=("art-lstm-2",),
        note="Not as in the paper: features are those of a small network that was trained on pictures that ship "
        "(`python -m scripts.experiments.paper.train_picture_features`), not VGG's, and has seen pieces of both "
        "photographs; losses are relative to the size of what is to be reached; styles are computed patterns; contents "
        "are pieces of one photograph in meta-training and of another here. A picture starts as noise.",
        shows_pictures=True,
    ),
    "cifar": Figure(
        ("cifar-lstms-2", "cifar-lstms-long", "cifar-lstms", "cifar-compact"),
        CIFAR,
        note="Not as in the paper: 8 channels a convolution instead of 16 and batches of 64 instead of 128, so that a "
        "student's step takes 20 ms instead of 62. At 1,000 steps NAG, Adam and Adam with a cosine alone were tuned, "
        "on two students, and five are reported on.",
    ),
}
