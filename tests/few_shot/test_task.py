"""Models of episodes: frozen and pretrained weights, dropout, layers of torch's own."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from l2l_opt.few_shot.adapt import adapt, draw_episodes
from l2l_opt.few_shot.episodes import ClassEpisodes, ImbalancedEpisodes
from l2l_opt.few_shot.meta_learner import MetaLearner
from l2l_opt.few_shot.methods import make_method
from l2l_opt.few_shot.models import MODELS, make_model, register_model
from l2l_opt.few_shot.sources import make_episodes
from l2l_opt.few_shot.task import EpisodeTask
from l2l_opt.randomness import Stream

EPISODES = make_episodes("clusters:ways=2,shots=2,queries=3,dim=8", phase="meta-train", dtype=torch.float64)


def task(model, **options):
    return EpisodeTask(model, EPISODES, dtype=torch.float64, **options)


def backbone(middle=None):
    model = nn.Sequential(nn.Linear(8, 4), middle or nn.Tanh(), nn.Linear(4, 2))
    nn.init.constant_(model[0].weight, 0.5)
    model[0].requires_grad_(False)
    return model


def learner(family, method="maml"):
    params = family.init_params({}, torch.Generator().manual_seed(0))
    return MetaLearner(
        make_method(method, params, lr=0.1), params, family, validation_family=family, outer_steps=2, meta_batch=3
    )


@pytest.mark.parametrize("init", ["fresh", "module"])
@pytest.mark.parametrize("method", ["maml", "meta-sgd", "reptile"])
def test_frozen_weights_stay_in_the_inner_and_outer_loop(init, method):
    model = backbone()
    family = task(model, init=init)
    own = learner(family, method)
    assert list(own.theta) == ["2.weight", "2.bias"]
    assert torch.equal(own.theta["2.weight"], model[2].weight.double()) == (init == "module")
    before = own.theta["2.weight"].clone()
    own.outer_step()
    assert not torch.equal(own.theta["2.weight"], before)
    episodes = draw_episodes(family, range(2), seed=0, stream=Stream.META_TRAINING, num_steps=1)
    adapted = adapt(own.method, family, own.theta, episodes)
    assert list(adapted.params) == ["2.weight", "2.bias"]
    weights = {name: p[0].detach() for name, p in adapted.params.items()}
    outputs = functional_call(model.double(), weights, (episodes.query["inputs"][0],))
    expected = nn.functional.cross_entropy(outputs, episodes.query["targets"][0])
    torch.testing.assert_close(adapted.query_losses[0], expected)


def test_anil_adapts_the_last_layer_of_what_is_trained():
    own = learner(task(backbone()), "anil")
    assert [name for name in own.theta if own.method.adapts(name)] == ["2.weight", "2.bias"]


def test_dropout_acts_on_support_sets_alone_and_is_an_episodes_own():
    family = task(nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 2)))
    params = family.init_params({}, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    data, other = family.sample(generator), family.sample(generator)
    support, query = (family.sample_batch(data, generator, split) for split in ("train", "test"))
    assert family.loss(params, data, support) == family.loss(params, data, support)
    assert family.loss(params, data, support) != family.loss(params, data, support | {"seed": other["seed"]})
    outputs = functional_call(family.model.eval(), params, (query["inputs"],))
    torch.testing.assert_close(family.loss(params, data, query), nn.functional.cross_entropy(outputs, query["targets"]))
    assert not learner(task(nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.2), nn.Linear(4, 2)))).outer_step().skipped


def test_attention_and_recurrent_layers_have_second_derivatives():
    class Read(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.out = layer, nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.layer(x.unflatten(-1, (2, 4)))[0][:, -1])

    class Attend(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x, need_weights=False)

    for layer in (nn.GRU(4, 4, batch_first=True), Attend(4, 2, batch_first=True)):
        step = learner(task(Read(layer))).outer_step()
        assert not step.skipped
        assert step.meta_gradient_norm > 0


def test_layers_that_cannot_run_are_refused_by_name():
    class Branch(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else -super().forward(x)

    with pytest.raises(ValueError, match=r"must not branch on the values of tensors; got '1' \(Branch\)"):
        task(nn.Sequential(nn.Tanh(), Branch(8, 2)))


def test_models_are_modules_whose_frozen_weights_are_always_the_same():
    @register_model("frozen-for-a-test")
    def frozen(*, input_shape, num_outputs, number: int = 0):
        return number or nn.Sequential(nn.Linear(input_shape[0], num_outputs).requires_grad_(False))

    try:
        first, again = (make_model("frozen-for-a-test", input_shape=(3,), num_outputs=2) for _ in range(2))
        assert torch.equal(first[0].weight, again[0].weight)
        with pytest.raises(ValueError, match="a registered model must return an nn.Module; got int"):
            make_model("frozen-for-a-test:number=3", input_shape=(3,), num_outputs=2)
    finally:
        del MODELS._factories["frozen-for-a-test"]


def test_episodes_of_data_with_gaps_are_refused():
    inputs = torch.zeros(60, 2)
    inputs[7, 1] = torch.nan
    labels = torch.arange(60) % 2
    for kind in (ClassEpisodes, ImbalancedEpisodes):
        with pytest.raises(ValueError, match="inputs must be finite; got NaN or infinity in 1 of 60 rows, .* row 7"):
            kind(inputs, labels)


class Ending(nn.Module):
    """A last layer that makes something of its outputs."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(4, 2), function

    def forward(self, x):
        return self.function(self.linear, x)


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (
            lambda linear, x: checkpoint(linear, x, use_reentrant=False),
            r"torch.utils.checkpoint at '1.linear' \(Linear\)",
        ),
        (lambda linear, x: (linear(x), x), "must give 2 outputs for each example; got a tuple, change its last layer"),
        (lambda linear, x: None, "must give 2 outputs for each example; got a NoneType"),
        (lambda linear, x: linear(x[:, :3]), r"'1.linear' \(Linear\) with shape \(2, 3\).* use in_features=3"),
    ],
)
def test_a_model_that_cannot_run_is_refused_by_the_name_of_the_layer(ending, message):
    with pytest.raises(ValueError, match=message):
        task(nn.Sequential(nn.Linear(8, 4), Ending(ending)))
