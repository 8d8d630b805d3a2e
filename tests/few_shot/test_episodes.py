"""Episodes: shapes, disjoint classes, determinism, stratification, and what is refused."""

import math

import pytest
import torch

from l2l_opt.few_shot.episodes import ClassEpisodes, ImbalancedEpisodes, SinusoidEpisodes, split_classes
from l2l_opt.few_shot.sources import EPISODES, make_episodes
from l2l_opt.randomness import Stream, make_generator


def labelled(classes=8, members=6, shape=(4, 4)):
    """Examples whose first pixel shows which class, and the next which example, they are."""
    inputs = torch.zeros(classes * members, *shape)
    labels = torch.arange(classes).repeat_interleave(members)
    inputs.flatten(1)[:, 0] = labels.float()
    inputs.flatten(1)[:, 1] = torch.arange(members).repeat(classes).float()
    return inputs, labels


def test_an_episode_has_its_ways_and_shots_and_no_example_twice():
    source = ClassEpisodes(*labelled(), ways=3, shots=2, queries=3)
    episode = source.sample(torch.Generator().manual_seed(0))
    assert episode["support_targets"].tolist() == [0, 0, 1, 1, 2, 2]
    assert episode["query_targets"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for way in range(3):
        rows = [episode[f"{part}_inputs"][episode[f"{part}_targets"] == way] for part in ("support", "query")]
        marks = torch.cat(rows).flatten(1)[:, :2]
        assert len(marks[:, 0].unique()) == 1
        assert len(marks[:, 1].unique()) == 5
    assert len(episode["support_inputs"].flatten(1)[:, 0].unique()) == 3


def test_labels_are_drawn_for_each_episode():
    source = ClassEpisodes(*labelled(), ways=2, shots=1, queries=1)
    firsts = {int(source.sample(torch.Generator().manual_seed(seed))["support_inputs"][0, 0, 0]) for seed in range(40)}
    assert len(firsts) == 8


def test_turned_images_are_classes_of_their_own():
    inputs, labels = labelled(classes=1)
    source = ClassEpisodes(inputs, labels, ways=4, shots=1, queries=1, rotations=True)
    episode = source.sample(torch.Generator().manual_seed(0))
    ways = {tuple(row.flatten().nonzero().flatten().tolist()) for row in episode["query_inputs"]}
    assert len(ways) == 4


def test_bytes_are_read_as_0_to_1():
    inputs, labels = labelled()
    source = ClassEpisodes((inputs * 0 + 255).byte(), labels, ways=2, shots=1, queries=1)
    assert source.sample(torch.Generator().manual_seed(0))["query_inputs"].unique().tolist() == [1.0]


def test_phases_share_no_class():
    parts = split_classes(50, (0.6, 0.2, 0.2))
    assert [len(part) for part in parts] == [30, 10, 10]
    assert torch.cat(parts).sort().values.tolist() == list(range(50))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 9}, "at least as many classes as ways; got 8 and 9, use at most ways=8"),
        ({"ways": 1}, "ways must be an integer of at least 2; got 1"),
        ({"shots": 0}, "shots must be a positive integer; got 0"),
        ({"shots": 4, "queries": 3}, "at least shots \\+ queries = 7 examples; got 6 of class 0"),
        ({"classes": [0, 1, 77]}, "got 0 of class 77"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClassEpisodes(*labelled(), **({"ways": 2, "shots": 1, "queries": 2} | options))


def test_only_square_images_are_turned():
    with pytest.raises(ValueError, match="only square images can be rotated"):
        ClassEpisodes(*labelled(shape=(4, 5)), ways=2, queries=1, rotations=True)


def test_sinusoids_are_sines():
    source = SinusoidEpisodes(shots=3, queries=200, dtype=torch.float64)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        episode = source.sample(generator)
        amplitude, phase = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        expected = (0.1 + 4.9 * amplitude) * torch.sin(episode["query_inputs"] + math.pi * phase)
        torch.testing.assert_close(episode["query_targets"], expected)
        assert episode["support_inputs"].shape == (3, 1)
        assert episode["query_inputs"].abs().max() <= 5


def test_imbalanced_episodes_have_three_of_the_rare_class_and_no_row_twice():
    labels = (torch.arange(400) % 40 == 0).long()
    inputs = torch.arange(400).float().unsqueeze(1)
    source = ImbalancedEpisodes(inputs, labels, support=20, queries=50)
    episode = source.sample(torch.Generator().manual_seed(0))
    assert int(episode["support_targets"].sum()) == 3
    assert int(episode["query_targets"].sum()) == 3
    rows = torch.cat([episode["support_inputs"], episode["query_inputs"]]).flatten()
    assert len(rows.unique()) == 70
    for part in ("support", "query"):
        own = episode[f"{part}_inputs"].flatten().long()
        assert torch.equal(labels[own], episode[f"{part}_targets"])


def test_imbalanced_episodes_refuse_what_they_cannot_draw():
    inputs = torch.zeros(50, 2)
    with pytest.raises(ValueError, match="labels must be 0 and 1; got \\[0, 1, 2\\]"):
        ImbalancedEpisodes(inputs, torch.arange(50) % 3)
    with pytest.raises(ValueError, match="class 1 must have at least"):
        ImbalancedEpisodes(inputs, (torch.arange(50) < 4).long(), support=10, queries=20)
    with pytest.raises(ValueError, match="must hold at least 3 examples of the rare class and another; got 3"):
        ImbalancedEpisodes(inputs, (torch.arange(50) < 10).long(), support=3, queries=20)


@pytest.mark.parametrize("name", ["sinusoids", "clusters"])
def test_an_episode_depends_on_its_seed_alone(name):
    source = make_episodes(name, phase="meta-train")
    one, same, other = (source.sample(make_generator(0, Stream.TEST, number)) for number in (5, 5, 6))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["query_inputs"], other["query_inputs"])
    assert set(one) == {"support_inputs", "support_targets", "query_inputs", "query_targets"}


def test_every_source_describes_itself():
    assert set(EPISODES.names()) >= {"sinusoids", "omniglot", "clusters", "images", "table", "imbalanced"}
    assert all(len(EPISODES.summary(name)) > 20 for name in EPISODES.names())


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="got 'shot'"):
        make_episodes("clusters:shot=3", phase="test")
