"""Heights of a landscape that matplotlib ships."""

import matplotlib
import pytest

from l2l_opt.tasks import make_task
from l2l_opt.tasks.synthetic import terrain


def test_neighbours_are_alike_in_height():
    examples = terrain.heights()
    places, heights = examples.inputs[:2000], examples.targets[:2000]
    apart = (places[:, None] - places).square().sum(-1).fill_diagonal_(9)
    nearest = apart.argmin(-1)
    assert (heights - heights[nearest]).square().mean() < 0.2
    assert (heights - heights.roll(1, 0)).square().mean() > 1.5


def test_where_matplotlib_lacks_them_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    terrain.heights.cache_clear()
    with pytest.raises(FileNotFoundError, match="must find matplotlib's sample data .* install matplotlib from PyPI"):
        make_task("terrain-field")
    terrain.heights.cache_clear()
