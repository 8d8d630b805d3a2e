"""What models of pictures see."""

import numpy as np
import pytest
import torch

from l2l_opt.few_shot.base_models.images import STATISTICS, CaptionMatcher, statistics


def test_statistics_by_hand():
    plain, halves = torch.full((28, 28), 0.5), torch.zeros(28, 28)
    halves[:, 14:] = 1
    entropy, levels, edges, mirror, upright, deviation, largest = range(len(STATISTICS))
    found = statistics(torch.stack([plain, halves]))
    assert found[0].tolist() == pytest.approx([0, 1, 0, 0, 0, 0, 1], abs=1e-6)
    assert found[1, entropy].item() == pytest.approx(np.log(2))
    assert found[1, levels] == 2
    assert found[1, edges].item() == pytest.approx(1 / 27 / 2)
    assert found[1, mirror] > 1.9
    assert found[1, upright] == 0
    assert found[1, deviation].item() == pytest.approx(0.5, abs=1e-3)
    assert found[1, largest] == 0.5


def test_a_caption_is_found_by_its_words():
    assert CaptionMatcher(["a dress", "a blue shoe", "a bag"])(torch.rand(4, 28, 28)).shape == (4, 3)
    same = CaptionMatcher(["a red shoe", "shoe red a"])
    scores = same(torch.rand(3, 28, 28))
    torch.testing.assert_close(scores[:, 0], scores[:, 1])
