"""That tensors side by side come apart again, and that blocks of their coordinates leave out none."""

import pytest
import torch

from l2l_opt.inner_loop.side_by_side import CoordinateSample, SideBySide, rows, take

SHAPES = {"scalar": (), "wide": (40, 20), "empty": (0, 3), "bias": (7,)}


@pytest.fixture
def params():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, *shape, generator=generator) for name, shape in SHAPES.items()}


def test_joined_tensors_come_apart_again(params):
    layout = SideBySide(params)
    joined = layout.join(params)
    assert joined.shape == (3, 808)
    for name, value in layout.views(joined).items():
        assert torch.equal(value, params[name])


@pytest.mark.parametrize("most", [64, 500, 10_000])
@pytest.mark.parametrize("sample", [CoordinateSample(), CoordinateSample(5, 3)])
def test_blocks_hold_every_sampled_coordinate_once(params, sample, most):
    layout = SideBySide(params)
    joined, found = layout.join(params), []
    for block in layout.blocks(sample, most):
        own = torch.cat([rows(params[p.name].unsqueeze(1))[0][:, p.own] for p in block], 1)
        assert torch.equal(take(joined, block), own)
        assert 0 < sum(map(len, block)) <= most
        found.append(own)
    wide = slice(1 + sample.offset, 801, sample.stride)
    assert torch.equal(torch.cat(found, 1), torch.cat([joined[:, :1], joined[:, wide], joined[:, 801:]], 1))
