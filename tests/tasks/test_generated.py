"""Data that are generated: for each student, or once for all."""

import pytest
import torch

from l2l_opt.tasks import make_task
from l2l_opt.tasks.synthetic.graph import stochastic_block_model
from l2l_opt.tasks.synthetic.sets import set_examples
from l2l_opt.tasks.synthetic.signals import signal_examples
from l2l_opt.tasks.tables.ratings import rating_examples


def sample(family, seed):
    return family.sample(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["clusters-mlp", "clusters-mlp:labels=teacher", "teacher-mlp", "rings-gated"])
def test_each_student_has_data_of_its_own(name):
    family = make_task(name, examples=100)
    first, again, other = sample(family, 0), sample(family, 0), sample(family, 1)
    assert torch.equal(first["inputs"], again["inputs"])
    assert not torch.equal(first["inputs"], other["inputs"])
    assert len(first["inputs"]) == len(first["targets"]) == 125
    generator = torch.Generator().manual_seed(0)
    params = family.init_params(first, generator)
    batch = family.sample_batch(first, generator)
    assert family.loss(params, first, batch) != family.loss(params, other, batch)


def test_clusters_without_noise_are_points_and_every_class_is_there():
    data = sample(make_task("clusters-mlp:noise=0,classes=4,dim=3"), 0)
    assert data["targets"].unique().tolist() == [0, 1, 2, 3]
    assert len(data["inputs"].unique(dim=0)) == 8


def test_a_random_networks_outputs_have_deviation_one_and_the_noise_asked_for():
    clean, noisy = (sample(make_task(f"teacher-mlp:noise={noise},outputs=2"), 0) for noise in (0, 0.5))
    assert clean["targets"].std(0).tolist() == pytest.approx([1, 1], abs=1e-4)
    assert torch.equal(clean["inputs"], noisy["inputs"])
    assert float((noisy["targets"] - clean["targets"]).std()) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_least_squares_have_their_condition_and_a_solution(condition):
    family = make_task(f"least-squares:condition={condition},examples=20000,dim=6,noise=0", dtype=torch.float64)
    data = sample(family, 0)
    spectrum = torch.linalg.eigvalsh(data["A"].T @ data["A"] / len(data["A"]))
    assert float(spectrum[-1] / spectrum[0]) == pytest.approx(condition, rel=0.1)
    assert float(data["y"].var()) == pytest.approx(1, rel=0.1)
    solution = torch.linalg.lstsq(data["A"], data["y"]).solution
    batch = family.sample_batch(data, torch.Generator().manual_seed(0))
    assert float(family.loss({"theta": solution}, data, batch)) < 1e-12


def test_signals_are_of_ten_patterns_that_can_be_distinguished():
    examples = signal_examples()
    assert examples.inputs.shape == (4000, 40)
    assert torch.bincount(examples.targets).tolist() == [400] * 10
    assert float(examples.inputs[:3200].std()) == pytest.approx(1)
    assert signal_examples() is examples


def test_ratings_are_mostly_of_few_works():
    examples = rating_examples()
    counts = torch.bincount(examples.inputs[:, 1], minlength=150).sort(descending=True).values
    assert counts[:15].sum() > 0.3 * len(examples.inputs)
    assert float(examples.targets.std()) == pytest.approx(1)


def test_the_graph_has_denser_communities():
    edges, features, community = stochastic_block_model()
    assert torch.equal(edges, edges.T)
    assert float(torch.linalg.eigvalsh(edges)[-1]) == pytest.approx(1)
    linked = (edges > 0).double() - torch.eye(len(edges))
    same = community[:, None] == community
    assert linked[same].mean() > 3 * linked[~same].mean() > 0
    assert features.shape == (400, 8)


def test_sets_are_of_one_to_four_clouds():
    examples = set_examples()
    assert examples.targets.unique().tolist() == [0, 1, 2, 3]
    of_one = examples.inputs[examples.targets == 0]
    assert float(of_one.std(1).mean()) == pytest.approx(0.15, rel=0.1)


def test_the_order_of_a_set_does_not_matter():
    family = make_task("sets-attention", dtype=torch.float64)
    params = family.init_params({}, torch.Generator().manual_seed(0))
    points = family.examples.inputs[:5]
    outputs, others = (torch.func.functional_call(family.module, params, (x,)) for x in (points, points.flip(1)))
    torch.testing.assert_close(outputs, others, rtol=1e-10, atol=1e-12)


def test_a_flow_is_a_density():
    family = make_task("spirals-flow:couplings=4,hidden=6", dtype=torch.float64)
    params = family.init_params({}, torch.Generator().manual_seed(0))
    axis = torch.linspace(-12, 12, 481, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)
    density = torch.func.functional_call(family.module, params, (grid,)).exp()
    assert float(density.sum() * 0.05**2) == pytest.approx(1, abs=1e-3)


def test_a_neighbour_counts_in_a_graph_convolution():
    family = make_task("graph-convolution", dtype=torch.float64)
    params = family.init_params({}, torch.Generator().manual_seed(0))
    edges, features, _ = stochastic_block_model()
    nodes = torch.tensor([3, 350])
    hidden = torch.relu(edges @ features @ params["first.weight"].T + params["first.bias"])
    expected = (edges @ hidden)[nodes] @ params["second.weight"].T + params["second.bias"]
    torch.testing.assert_close(
        torch.func.functional_call(family.module, (params, family.buffers), (nodes,)), expected, rtol=1e-9, atol=1e-12
    )
