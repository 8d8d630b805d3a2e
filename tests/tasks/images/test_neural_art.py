"""Pictures as students: what their loss is of, and that it leads to the content and the style that are asked for."""

import pytest
import torch
from torch.nn.functional import conv2d

from l2l_opt.tasks import make_task
from l2l_opt.tasks.images.neural_art.features import CHANNELS, trained_features
from l2l_opt.tasks.images.neural_art.styles import STYLES, style_picture

SMALL = "neural-art:side=16"


def student(notation, seed=0):
    family = make_task(notation, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    data = family.sample(generator)
    return family, data, family.init_params(data, generator)


def test_features_are_convolutions_of_halved_pictures():
    network = trained_features(torch.device("cpu"), torch.float64)
    picture = torch.rand(3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = 2 * picture - 1
    for index, (found, channels) in enumerate(zip(network(picture), CHANNELS, strict=True)):
        if index:
            value = value.unflatten(1, (-1, 2)).mean(2).unflatten(2, (-1, 2)).mean(3)
        stage = network.stages[index]
        value = conv2d(value[None], stage.weight, stage.bias, padding=1)[0].clamp(min=0)
        assert found.shape == (channels, 16 // 2**index, 16 // 2**index)
        torch.testing.assert_close(found, value)
        assert 0.05 < (found > 0).double().mean() < 0.95


def test_the_loss_by_its_equation():
    family, data, params = student(f"{SMALL},style=mosaic,style_weight=0.3,smoothness=2")
    network = trained_features(torch.device("cpu"), torch.float64)
    picture = params["picture"]
    found, content = network(picture), network(data["photo"])[1]
    expected = ((found[1] - content) ** 2).sum() / (content**2).sum()
    for own, wanted in zip(found, network(style_picture("mosaic", 16)), strict=True):
        grams = [torch.einsum("ihw,jhw->ij", f, f) / f[0].numel() for f in (own, wanted)]
        expected += 0.3 / 3 * ((grams[0] - grams[1]) ** 2).sum() / (grams[1] ** 2).sum()
    across, down = picture[:, :, 1:] - picture[:, :, :-1], picture[:, 1:] - picture[:, :-1]
    expected += 2 * ((across**2).mean() + (down**2).mean()) / 2
    torch.testing.assert_close(family.loss(params, data, {}), expected)


def test_content_alone_is_least_at_the_content():
    family, data, params = student(f"{SMALL},style_weight=0,smoothness=0")
    assert family.loss({"picture": data["photo"]}, data, {}) == 0
    assert family.loss(params, data, {}) > 0.1


def test_style_alone_is_least_at_the_style_and_differs_between_styles():
    for style in STYLES:
        family, data, _ = student(f"{SMALL},style={style},style_weight=1000,smoothness=0")
        other = next(name for name in STYLES if name != style)
        own = family.loss({"picture": style_picture(style, 16)}, data, {})
        assert own < 0.1 * family.loss({"picture": style_picture(other, 16)}, data, {})


def test_students_have_contents_of_their_own_from_the_photograph_asked_for():
    temple, flower = (
        [student(f"{SMALL},photo={photo}", seed)[1]["photo"] for seed in range(2)] for photo in ("temple", "flower")
    )
    assert not torch.equal(*temple)
    assert not torch.equal(temple[0], flower[0])
    assert all(value.min() >= 0 and value.max() <= 1 for value in (*temple, *flower))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("side=18", "multiple of 4"),
        ("side=4", "from 8"),
        ("side=500", "to 424"),
        ("style=cubism", "swirls"),
        ("photo=cat", "temple"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_task(f"neural-art:{options}")


def test_styles_keep_their_motif_at_every_size():
    for style in STYLES:
        large = style_picture(style, 64)
        assert large.shape == (3, 64, 64)
        small = torch.nn.functional.avg_pool2d(large, 4)
        difference = (small - torch.nn.functional.avg_pool2d(style_picture(style, 128), 8)).abs().mean()
        assert difference < 0.1
