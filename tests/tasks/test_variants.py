"""Students by their options: under vmap as alone, learning, refused where they cannot be."""

import pytest
import torch
from torch.func import vmap
from torch.utils._pytree import tree_map

from l2l_opt.tasks import TASKS, ModuleTask, make_task
from l2l_opt.tasks.mixture import TaskMixture, make_tasks

VARIANTS = [
    "digits-mlp:norm=layer,layers=2,init=he,loss=squared,side=4",
    "digits-mlp:norm=batch,init=xavier,loss=smoothed",
    "digits-mlp:norm=rms,init=orthogonal,activation=tanh",
    "digits-mlp:init=zero-bias,activation=relu",
    "clusters-mlp:labels=teacher,noise=0,classes=3,norm=batch",
    "teacher-mlp:outputs=3,activation=gelu,norm=layer",
    "digits-conv:norm=batch,layers=3,activation=silu,init=he",
    "digits-conv:norm=group,channels=5,side=7,loss=squared",
    "fashion-autoencoder:loss=bce,layers=2,norm=rms,side=8",
    "novel-rnn:cell=elman,length=5,hidden=7",
    "novel-attention:norm=none,length=5,width=6",
    "least-squares:batch_size=None,condition=1,dim=1",
    "wine-mlp:loss=smoothed",
]


def draw(family, seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = family.sample(generator)
    return family.init_params(data, generator), data, family.sample_batch(data, generator)


@pytest.mark.parametrize("spec", VARIANTS)
def test_two_students_under_vmap_are_the_single_ones_with_their_gradients(spec):
    family = make_task(spec, dtype=torch.float64)
    students = [draw(family, seed) for seed in range(2)]
    stacked = [tree_map(lambda *leaves: torch.stack(leaves), *parts) for parts in zip(*students, strict=True)]
    points = {name: value.requires_grad_() for name, value in stacked[0].items()}
    losses = vmap(family.loss)(points, *stacked[1:])
    together = torch.autograd.grad(losses.sum(), list(points.values()))
    for number, (params, data, batch) in enumerate(students):
        own = {name: value.requires_grad_() for name, value in params.items()}
        loss = family.loss(own, data, batch)
        torch.testing.assert_close(loss, losses[number], rtol=1e-12, atol=1e-12)
        for one, both in zip(torch.autograd.grad(loss, list(own.values())), together, strict=True):
            torch.testing.assert_close(one, both[number], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spec", VARIANTS)
def test_the_loss_falls(spec):
    family = make_task(spec)
    generator = torch.Generator().manual_seed(3)
    data = family.sample(generator)
    params = {name: value.requires_grad_() for name, value in family.init_params(data, generator).items()}
    optimizer = torch.optim.Adam(params.values(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = family.loss(params, data, family.sample_batch(data, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize(
    "name",
    [name for name in TASKS.names() if not name.startswith(("mnist", "cifar", "fashion-full", "table-", "text-"))],
)
def test_training_and_test_examples_are_others(name):
    family = make_task(name)
    if name in ("quadratics", "flow-sampler", "neural-art", "navigation", "cartpole", "pendulum"):
        return  # they have no examples
    generator = torch.Generator().manual_seed(0)
    data = family.sample(generator)
    seen = {
        split: torch.cat([family.sample_batch(data, generator, split)["index"] for _ in range(20)]).unique()
        for split in ("train", "test")
    }
    assert len(seen["test"]) > 5
    assert seen["train"].max() < seen["test"].min()


def test_defaults_are_the_plain_student_of_before():
    family = make_task("digits-mlp")
    assert isinstance(family, ModuleTask)
    nn = torch.nn
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Sigmoid(), nn.Linear(20, 10))
    same = ModuleTask(plain, nn.functional.cross_entropy, family.examples)
    (params, _, batch), (others, _, _) = draw(family, 5), draw(same, 5)
    assert list(params) == list(others)
    assert all(torch.equal(params[name], others[name]) for name in params)
    assert torch.equal(family.loss(params, {}, batch), same.loss(others, {}, batch))


def test_every_option_can_vary_in_a_mixture():
    tasks = make_tasks(
        "digits-mlp:hidden=8..64,layers=1..3,norm=none|layer|batch|rms,init=default|he|orthogonal,loss=squared|smoothed"
        " + clusters-mlp:labels=clusters|teacher,noise=0.1..2.0,dim=2..9 + least-squares:batch_size=32|None"
        " + novel-rnn:cell=gru|elman,length=3..6 + digits-conv:norm=none|batch|group,channels=4..8"
    )
    assert isinstance(tasks, TaskMixture)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        family = tasks.draw(generator)
        params, data, batch = draw(family)
        assert torch.isfinite(family.loss(params, data, batch))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digits-mlp:norm=group", "norm must be one of none, layer, batch, rms; got 'group', use e.g. norm=none"),
        ("digits-mlp:init=zeros", "init must be one of default.* got 'zeros'"),
        ("digits-mlp:loss=hinge", "loss must be one of cross-entropy, .* got 'hinge'"),
        (
            "digits-mlp:activation=[1]",
            r"activation of task .digits-mlp. must be a text; got \[1\], use",
        ),
        ("digits-mlp:device=cuda", "must be one it has; got 'device', which is passed beside its notation, use one of"),
        ("digits-mlp:hidden=True", "hidden of task .digits-mlp. must be an integer; got True"),
        ("digits-conv:channels=0", "channels must be a positive integer; got 0, use e.g. channels=2"),
        ("digits-conv:norm=layer", "norm must be one of none, batch, group; got 'layer'"),
        ("fashion-conv:side=-3", "side must be a positive integer; got -3"),
        ("digits-autoencoder:bottleneck=0.5", "bottleneck of task .digits-autoencoder. must be an integer; got 0.5"),
        ("digits-autoencoder:loss=l1", "loss must be one of mse, bce; got 'l1'"),
        ("clusters-mlp:labels=none", "labels must be one of clusters, teacher; got 'none'"),
        ("clusters-mlp:noise=-1", "noise must be a number of 0 or more; got -1, use e.g. noise=1"),
        ("clusters-mlp:examples=0", "examples must be a positive integer; got 0"),
        ("teacher-mlp:outputs=0", "outputs must be a positive integer; got 0"),
        ("least-squares:condition=0.5", "condition must be a number of 1 or more; got 0.5"),
        ("least-squares:batch_size=0", "batch_size must be a positive integer; got 0"),
        ("novel-rnn:cell=lstm", "cell must be one of gru, elman; got 'lstm'"),
        ("novel-rnn:length=0", "length must be a positive integer; got 0"),
        ("novel-rnn:length=1000000", "length must leave .* got 1000000"),
        ("novel-attention:norm=rms", "norm must be one of none, layer; got 'rms'"),
        ("verse-transformer:width=9", "heads must divide width; got 2 and 9"),
        ("rings-gated:rings=0", "rings must be a positive integer; got 0"),
        ("iris-mlp:layers=0", "layers must be a positive integer; got 0"),
        ("signals-conv:layers=0", "layers must be a positive integer; got 0"),
        ("picture-siren:frequency=0", "frequency must be a positive number; got 0"),
        ("picture-denoising:deviation=x", "deviation of task .picture-denoising. must be a number; got .x."),
        ("picture-vae:latent=0", "latent must be a positive integer; got 0"),
        ("picture-mixer:blocks=0", "blocks must be a positive integer; got 0"),
        ("ratings-factorisation:rank=0", "rank must be a positive integer; got 0"),
        ("graph-convolution:hidden=0", "hidden must be a positive integer; got 0"),
        ("sets-attention:heads=0", "heads must be a positive integer; got 0"),
        ("spirals-flow:couplings=0", "couplings must be a positive integer; got 0"),
        ("digits-linear:batch_size=0", "batch_size must be a positive integer; got 0"),
    ],
)
def test_bad_options_are_named_in_one_sentence(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_task(spec)
    assert "\n" not in str(caught.value)
