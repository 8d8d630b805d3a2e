"""Models of tables see columns in no unit."""

import numpy as np
import torch

from l2l_opt.few_shot.base_models.tables import encode


def test_units_do_not_matter():
    rows = np.random.default_rng(0).standard_t(6, size=(3000, 12))
    torch.testing.assert_close(encode(rows, rows), encode(1000 * rows + 7, 1000 * rows + 7), atol=1e-4, rtol=1e-4)
