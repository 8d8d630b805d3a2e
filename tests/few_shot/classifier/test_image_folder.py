"""Pictures as people have them: of every kind that Pillow reads, alike wherever they lie."""

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_opt.checks import DataNote
from l2l_opt.few_shot.classifier.image_folder import read_image, read_image_folder, read_images


def image_folder(root, counts, side=10):
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_images_are_read_by_class(tmp_path):
    data = read_image_folder(image_folder(tmp_path / "photos", {"b": 2, "a": 3}), side=6, colour=True)
    assert data.images.shape == (5, 3, 6, 6)
    assert data.images.dtype == torch.uint8
    assert data.classes == ["a", "b"]
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    grey, files = read_images(tmp_path / "photos", side=6, colour=False)
    assert grey.shape == (5, 6, 6)
    assert [file.parent.name for file in files] == ["a", "a", "a", "b", "b"]


def test_bad_image_folders_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder of images must exist"):
        read_image_folder(tmp_path / "none")
    (tmp_path / "flat").mkdir()
    with pytest.raises(ValueError, match="a folder for each class; got none"):
        read_image_folder(tmp_path / "flat")
    root = image_folder(tmp_path / "photos", {"a": 2})
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match="every class must have images; got none in .*empty"):
        read_image_folder(root)
    (root / "empty" / "x.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="every image must be readable; got .*x.png"):
        read_image_folder(root)
    with pytest.raises(ValueError, match="there must be images"):
        read_images(tmp_path / "flat", side=4, colour=False)


def test_folders_are_read_alike_however_deep_and_what_is_left_out_is_named(tmp_path):
    root = image_folder(tmp_path / "photos", {"a": 2, "b": 2})
    image_folder(root / "a" / "2024", {"june": 1})
    (root / "a" / "notes.txt").write_text("none")
    (root / ".hidden").mkdir()
    (root / "b" / ".thumb.png").write_text("none")
    Image.new("RGB", (4, 4)).save(root / "loose.png")
    with pytest.warns(DataNote) as caught:
        data = read_image_folder(root, side=4)
    notes = " ".join(str(note.message) for note in caught)
    assert "files left out: 1, no images by their names" in notes
    assert "notes.txt" in notes
    assert "files left out: 1, in the folder of no class" in notes
    assert "loose.png" in notes
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    with pytest.warns(DataNote, match="notes.txt"):
        assert len(read_images(root, side=4, colour=False)[1]) == 6


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".tga", ".jp2", ".pcx", ".webp", ".dib"])
def test_every_suffix_that_pillow_reads(tmp_path, suffix):
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "photos" / name / f"x{suffix}")
    data = read_image_folder(tmp_path / "photos", side=8, colour=True)
    assert data.images.shape == (2, 3, 8, 8)
    assert (data.images[:, 0].float().mean(), data.images[:, 1].float().mean()) == (
        pytest.approx(255, abs=3),
        pytest.approx(0, abs=3),
    )


@pytest.mark.parametrize(
    ("values", "mode", "suffix"),
    [
        (np.array([[0, 13107], [26214, 65535]], np.uint16), "I;16", "png"),
        (np.array([[0, 13107], [26214, 65535]], np.uint16), "I;16", "tif"),
        (np.array([[0, 13107], [26214, 65535]], np.int32), "I", "tif"),
        (np.array([[0, 0.2], [0.4, 1]], np.float32), "F", "tif"),
        (np.array([[0, 51], [102, 255]], np.float32), "F", "tif"),
        (np.array([[0, 2e5], [4e5, 1e6]], np.float32), "F", "tif"),
    ],
)
def test_deep_pictures_are_scaled_not_clipped(tmp_path, values, mode, suffix):
    image = Image.fromarray(values)
    assert image.mode == mode
    image.save(tmp_path / f"x.{suffix}")
    pixels = read_image(tmp_path / f"x.{suffix}", side=2, colour=False)
    assert pixels.tolist() == [[0, 51], [102, 255]]
    assert read_image(tmp_path / f"x.{suffix}", side=2, colour=True)[1].tolist() == pixels.tolist()


def deep_folder(root, values):
    """Two classes of one deep picture each, of these values and of half of them."""
    suffix = "tif" if values.dtype == np.float32 else "png"
    for name, own in (("a", values), ("b", (values * 0.5).astype(values.dtype))):
        (root / name).mkdir(parents=True)
        Image.fromarray(own).save(root / name / f"x.{suffix}")
    return root


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.array([[0, 819], [1638, 4095]], np.uint16), 4095),
        (np.array([[0, 51], [102, 255]], np.uint16), 255),
        (np.array([[0, 2000], [3000, 16000]], np.float32), 16383),
        (np.array([[0, 13107], [26214, 65535]], np.uint16), 65535),
    ],
)
@pytest.mark.filterwarnings("ignore::l2l_opt.checks.DataNote")
def test_the_least_usual_range_that_holds_all_of_a_folder_is_its_white(tmp_path, values, white):
    root = deep_folder(tmp_path / "photos", values)
    data = read_image_folder(root, side=2)
    assert list(data.whites.values()) == [white]
    expected = np.stack([values, (values * 0.5).astype(values.dtype)]) * (255 / white)
    assert np.abs(data.images.numpy() - expected).max() <= 0.5
    # A darker picture alone is read as it was in the folder.
    again, _ = read_images(root / "b", side=2, colour=False, whites=data.whites)
    assert torch.equal(again[0], data.images[1])


def test_a_folder_of_twelve_bits_and_what_is_brighter_later_are_named(tmp_path):
    root = deep_folder(tmp_path / "photos", np.array([[0, 1000], [2000, 4000]], np.uint16))
    with pytest.warns(DataNote, match="deep pictures have pixels of up to 4000, and 4095 is taken as white"):
        whites = read_image_folder(root, side=2).whites
    Image.fromarray(np.array([[0, 60000]], np.uint16)).save(tmp_path / "bright.png")
    with pytest.warns(DataNote, match="brighter than what was white where the model was made: 1: .*bright.png"):
        pixels, _ = read_images(tmp_path / "bright.png", side=2, colour=False, whites=whites)
    assert pixels.max() == 255


@pytest.mark.parametrize("gap", [np.nan, np.inf])
def test_a_picture_with_gaps_is_refused_by_its_name(tmp_path, gap):
    root = deep_folder(tmp_path / "photos", np.array([[0, 0.5], [gap, 1]], np.float32))
    message = r"every pixel must be a finite number; got NaN or infinity in 1 of 4 of '.*a.x.tif'"
    with pytest.raises(ValueError, match=message):
        read_image_folder(root, side=2)
    with pytest.raises(ValueError, match=message):
        read_images(root / "a" / "x.tif", side=2, colour=False)


@pytest.mark.parametrize(("turn", "bright"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_pictures_are_turned_as_their_camera_recorded(tmp_path, turn, bright):
    image = Image.new("L", (8, 8))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = turn
    image.save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png", side=8, colour=False)[bright] == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("colour", [True, False])
def test_what_is_clear_is_white(tmp_path, mode, colour):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 4))
    if mode == "P":
        image = image.convert("L").convert("P")
        image.putdata([0, 0, 1, 1] * 4)
        image.info["transparency"] = 1
    else:
        image = image.convert(mode)
    image.save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png", side=4, colour=colour)
    assert pixels.reshape(-1, 4)[0].tolist() == [0, 0, 255, 255]
