"""Small graphs of four kinds."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from l2l_opt.tasks.synthetic.small_graphs import DENSITY, KINDS, NODES, IsomorphismNetwork, graphs


def test_kinds_have_as_many_edges_and_differ_by_their_spectrum():
    examples = graphs()
    linked, kinds = examples.inputs, examples.targets
    assert torch.equal(linked, linked.mT)
    assert not linked.diagonal(dim1=1, dim2=2).any()
    pairs = NODES * (NODES - 1)
    for kind in range(KINDS):
        assert linked[kinds == kind].sum((1, 2)).mean() / pairs == pytest.approx(DENSITY, abs=0.03)
    spectrum = torch.linalg.eigvalsh(linked)
    edges = linked.sum((1, 2))[:, None]
    scores = [
        LogisticRegression(max_iter=500).fit(x[:2000], kinds[:2000]).score(x[2000:], kinds[2000:])
        for x in (edges, spectrum)
    ]
    assert scores[0] < 0.4 < 0.6 < scores[1]


def test_the_order_of_nodes_changes_nothing():
    module = IsomorphismNetwork(8, 2).double()
    linked, order = graphs().inputs[:5], torch.randperm(NODES, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(linked), module(linked[:, order][:, :, order]))
