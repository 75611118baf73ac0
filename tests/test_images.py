"""Reading photos: against Pillow, against values worked out by hand, and against bad files."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from attnviz.errors import AttnvizWarning, ImageError
from attnviz.images import find_images, photo_values, read_image


def photo(height=5, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height):
    """A PNG whose header claims a size that its few bytes of data do not have."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )


# -- orientation -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_pillow_turns_it(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(Image.fromarray(photo()), format=format, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(read_image(data), expected)
    assert expected.shape[:2] == ((5, 8) if orientation < 5 else (8, 5))


def test_exif_of_a_pil_image_is_applied_and_the_image_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(Image.fromarray(photo()), format="PNG", exif=exif)))
    assert np.array_equal(read_image(image), np.rot90(photo(), -1))
    assert image.size == (8, 5)
    assert np.array_equal(np.asarray(image), photo())


def test_damaged_exif_does_not_hide_the_pixels():
    data = encoded(Image.fromarray(photo()), format="PNG", exif=b"Exif\0\0" + b"\xff" * 30)
    assert np.array_equal(read_image(data), photo())


# -- modes -------------------------------------------------------------------------------------

#: 16-bit value -> 8-bit value, by hand: value / 257, rounded
SIXTEEN = {0: 0, 128: 0, 129: 1, 257: 1, 32896: 128, 65406: 254, 65407: 255, 65535: 255}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_divided_by_257(tmp_path, channels, suffix):
    row = np.array([list(SIXTEEN)], np.uint16)
    pixels = row if channels == 1 else np.repeat(row[..., None], channels, axis=-1)
    if channels == 4:
        pixels[..., 3] = 65535
    path = tmp_path / f"deep{suffix}"
    assert cv2.imwrite(str(path), pixels)
    expected = np.repeat(np.array([list(SIXTEEN.values())], np.uint8)[..., None], 3, axis=-1)
    # OpenCV's TIFF does not say that its fourth band is transparency
    bands = (1, 2, 3) if (channels, suffix) == (4, ".tif") else None
    assert np.array_equal(read_image(path, bands=bands), expected)


def test_sixteen_bit_colour_keeps_its_channels_apart(tmp_path):
    bgr = np.array([[[257 * 10, 257 * 20, 257 * 30]]], np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), bgr)
    assert read_image(tmp_path / "deep.png")[0, 0].tolist() == [30, 20, 10]


def test_cmyk():
    ink = np.array([[[0, 255, 255, 0], [255, 0, 255, 0], [0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)
    image = Image.fromarray(ink, mode="CMYK")
    expected = [[255, 0, 0], [0, 255, 0], [0, 0, 0], [255, 255, 255]]
    assert read_image(image)[0].tolist() == expected
    assert read_image(encoded(image, format="TIFF"))[0].tolist() == expected
    block = image.resize((64, 16), Image.NEAREST)
    centres = read_image(encoded(block, format="JPEG", quality=100))[8, 8::16].astype(int)
    assert np.abs(centres - expected).max() < 6


def test_alpha_is_laid_on_white_by_hand():
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    # 51 / 255 = 0.2: 0.2 * 200 + 0.8 * 255 = 244, 0.2 * 100 + 204 = 224, 204
    expected = [[200, 100, 0], [255, 255, 255], [244, 224, 204]]
    assert read_image(Image.fromarray(rgba))[0].tolist() == expected
    assert read_image(encoded(Image.fromarray(rgba), format="PNG"))[0].tolist() == expected
    assert read_image(rgba)[0].tolist() == expected
    grey = np.array([[[100, 51], [100, 255]]], np.uint8)
    for source in (Image.fromarray(grey, mode="LA"), grey):
        assert read_image(source)[0].tolist() == [[224] * 3, [100] * 3]


def test_palette_with_transparency():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    plain = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    assert read_image(encoded(image, format="PNG"))[0].tolist() == plain
    assert read_image(encoded(image, format="GIF"))[0].tolist() == plain
    see_through = encoded(image, format="PNG", transparency=1)
    assert read_image(see_through)[0].tolist() == [plain[0], [255] * 3, plain[2]]


def test_grey_and_black_and_white():
    grey = np.array([[0, 7, 255]], np.uint8)
    assert read_image(encoded(Image.fromarray(grey), format="PNG"))[0, :, 1].tolist() == [0, 7, 255]
    assert read_image(Image.fromarray(grey > 5))[0, :, 2].tolist() == [0, 255, 255]


def test_32_bit_integers_are_refused_and_floats_need_their_range():
    with pytest.raises(ImageError, match="32-bit"):
        read_image(encoded(Image.new("I", (2, 2), 70000), format="TIFF"))
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert read_image(encoded(unit, format="TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(ImageError, match=r"expected \[0, 1\]"):
        read_image(encoded(Image.fromarray(np.full((2, 2), 3.0, np.float32)), format="TIFF"))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], format="GIF", save_all=True, append_images=frames[1:])
    assert read_image(data)[0, 0].tolist() == [255, 0, 0]


# -- sizes -------------------------------------------------------------------------------------


def test_one_pixel():
    assert read_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), format="PNG")).tolist() == [
        [[1, 2, 3]]
    ]


def test_12000_x_9000_pixels_without_a_warning():
    image = Image.new("1", (12000, 9000))
    image.putpixel((11999, 8999), 1)
    data = encoded(image, format="PNG", compress_level=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns from 89 million pixels
        pixels = read_image(data)
    assert pixels.shape == (9000, 12000, 3)
    assert pixels[-1, -1].tolist() == [255] * 3
    assert pixels[-2:, -2:].sum() == 3 * 255


@pytest.mark.parametrize("size", [(20_000, 10_001), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_before_decoding(size, monkeypatch):
    from PIL import PngImagePlugin

    def no_decoding(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", no_decoding)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="million pixels"):
        read_image(bomb(*size))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_the_callers():
    data = encoded(Image.fromarray(photo()), format="PNG")
    assert read_image(data, max_pixels=40).shape == (5, 8, 3)
    with pytest.raises(ImageError, match="max_pixels"):
        read_image(data, max_pixels=39)
    with pytest.raises(ImageError, match="max_pixels"):
        read_image(Image.fromarray(photo()), max_pixels=39)


def test_reduced_decoding_keeps_the_size_asked_for():
    ramp = np.tile(np.linspace(0, 255, 640).astype(np.uint8)[None, :, None], (480, 1, 3))
    data = encoded(Image.fromarray(ramp), format="JPEG", quality=95)
    assert read_image(data).shape == (480, 640, 3)
    small = read_image(data, reduce_to=100)
    assert small.shape == (120, 160, 3)  # a quarter; an eighth would be 60 high
    assert np.abs(small[60, :, 0].astype(int) - ramp[0, 2::4, 0]).max() <= 2


# -- bad files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_truncated_files(format, part, tmp_path):
    data = encoded(Image.fromarray(photo(200, 300)), format=format)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ImageError, match=r"cut\.img"):
        read_image(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.filterwarnings("ignore")  # of Pillow, about the damage
def test_flipped_bytes_give_pixels_or_an_image_error(format):
    data = bytearray(encoded(Image.fromarray(photo(20, 30)), format=format))
    random = np.random.default_rng(1)
    for _ in range(60):
        broken = bytearray(data)
        for at in random.integers(0, len(data), 4):
            broken[at] = random.integers(256)
        with contextlib.suppress(ImageError):
            assert read_image(bytes(broken), max_pixels=10_000).shape[-1] == 3


def test_what_is_not_an_image(tmp_path):
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("not an image at all")
    for source, message in [
        (empty, "empty"),
        (b"", "empty"),
        (text, "unknown format"),
        (tmp_path, "directory"),
        (tmp_path / "txet.jpg", "did you mean 'text.jpg'"),
        ("", "not a path"),
        ("a\0b.jpg", "not a path"),
        ("x" * 5000, "cannot be opened|no such file"),
        ("https://example.org/cat.jpg", "URL"),
        ("file:///tmp/cat.jpg", "URL"),
        (None, "not an image"),
        (7, "not an image"),
        ([1, 2], "not an image"),
    ]:
        with pytest.raises(ImageError, match=message):
            read_image(source)


def test_postscript_is_not_run():
    with pytest.raises(ImageError, match="unknown format"):
        read_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")


def test_a_file_without_permission(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(Image.fromarray(photo()), format="PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image(path)


def test_paths_bytes_and_open_files_agree(tmp_path):
    path = tmp_path / "fotö 1.png"
    Image.fromarray(photo()).save(path)
    with open(path, "rb") as file:
        for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file):
            assert np.array_equal(read_image(source), photo())


# -- arrays and tensors ------------------------------------------------------------------------


def test_arrays_by_hand():
    pixels = photo()
    assert np.array_equal(read_image(pixels), pixels)
    assert np.array_equal(read_image(pixels[..., 0]), np.repeat(pixels[..., :1], 3, -1))
    assert np.array_equal(read_image(pixels[..., :1]), np.repeat(pixels[..., :1], 3, -1))
    assert np.array_equal(read_image(pixels.astype(np.float64) / 255), pixels)
    assert np.array_equal(read_image(pixels.astype(np.uint16) * 257), pixels)
    assert np.array_equal(read_image(pixels[:, ::-1]), pixels[:, ::-1])
    assert np.array_equal(read_image(photo(3, 3)), photo(3, 3))


def test_tensors_by_hand():
    pixels = photo()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    assert np.array_equal(read_image(tensor), pixels)
    assert np.array_equal(read_image((tensor / 255).requires_grad_()), pixels)
    assert np.array_equal(read_image(tensor[0]), np.repeat(pixels[..., :1], 3, -1))
    half = read_image(torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16))
    assert half.tolist() == [[[128] * 3] * 2] * 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), "not one image"),
        (np.zeros((3, 40, 50), np.uint8), "channels first"),
        (np.zeros((6, 4, 5), np.uint8), "5 channels"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.full((4, 4, 3), 1.5), r"expected \[0, 1\]"),
        (np.full((4, 4, 3), -0.1), r"expected \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), r"expected \[0, 1\]"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((4, 4), bool), "bool"),
        (torch.zeros(1, 3, 4, 4), "Index a batch"),
        (torch.zeros(40, 50, 3), r"permute\(2, 0, 1\)"),
        (torch.full((3, 4, 4), 2.1), r"expected \[0, 1\]"),
    ],
)
def test_arrays_that_are_no_images(source, message):
    with pytest.raises(ImageError, match=message):
        read_image(source)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_nothing_given_is_changed_or_shared(channels):
    array = np.random.default_rng(0).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    before = array.copy()
    result = read_image(array)
    assert not np.shares_memory(result, array)
    result[:] = 0
    assert np.array_equal(array, before)
    tensor = torch.from_numpy(before.copy()).permute(2, 0, 1)
    result = read_image(tensor)
    result[:] = 0
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), before)


# -- finding -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name in ["b.JPG", "a.png", "notes.txt", ".hidden.png", "sub/c.jpeg", ".git/d.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "none").mkdir()
    return tmp_path


def names(paths, folder):
    return [p.relative_to(folder).as_posix() for p in paths]


def test_find_in_folders_and_patterns(folder):
    assert names(find_images(folder), folder) == ["a.png", "b.JPG", "sub/c.jpeg"]
    assert names(find_images([folder], recursive=False), folder) == ["a.png", "b.JPG"]
    assert names(find_images(f"{folder}/*"), folder) == ["a.png", "b.JPG"]
    assert names(find_images(f"{folder}/**/*.jp*g"), folder) == ["sub/c.jpeg"]
    assert names(find_images([folder / "notes.txt"]), folder) == ["notes.txt"]


def test_find_each_file_once_and_sorted(folder):
    twice = [folder / "sub" / ".." / "b.JPG", folder / "b.JPG", folder, folder / "a.png"]
    found = find_images(twice)
    assert sorted(p.resolve() for p in found) == sorted(p.resolve() for p in find_images(folder))
    assert found == sorted(found)


def test_find_a_file_named_like_a_pattern(tmp_path):
    (tmp_path / "cat[1].png").touch()
    assert find_images(tmp_path / "cat[1].png") == [tmp_path / "cat[1].png"]


@pytest.mark.parametrize("missing", ["nothing.png", "none", "*.bmp"])
def test_find_nothing_is_an_error(folder, missing):
    with pytest.raises(ImageError, match=r"no (image|such file)"):
        find_images(folder / missing)


def test_sixteen_bit_colour_is_turned_once(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3)).astype(np.uint16) * 257
    data = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    end = data.index(b"IDAT") - 4
    turned = data[:end] + png_chunk(b"eXIf", exif.tobytes()[6:]) + data[end:]
    assert np.array_equal(read_image(data), pixels // 257)
    assert np.array_equal(read_image(turned), np.rot90(pixels // 257, -1))


# -- bands and windows -------------------------------------------------------------------------


def _tiff(path, pixels, extra=None):
    """A TIFF of any number of bands, as remote sensing writes them."""
    import tifffile

    options = {} if extra is None else {"extrasamples": [extra]}
    tifffile.imwrite(path, pixels, photometric="rgb", planarconfig="contig", **options)


def test_a_fourth_band_is_no_transparency(tmp_path):
    import cv2

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (6, 7, 4), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "nir.tif"), pixels[..., [2, 1, 0, 3]])  # B, G, R, near infrared
    with pytest.raises(ImageError, match=r"four bands, .* bands=\(1, 2, 3\) \(--bands 1,2,3\)"):
        read_image(tmp_path / "nir.tif")
    assert np.array_equal(read_image(tmp_path / "nir.tif", bands=(1, 2, 3)), pixels[..., :3])
    assert np.array_equal(read_image(tmp_path / "nir.tif", bands=(4, 1, 2)), pixels[..., [3, 0, 1]])
    grey = read_image(tmp_path / "nir.tif", bands=(4,))
    assert np.array_equal(grey, np.repeat(pixels[..., 3:], 3, -1))
    # what says that it is transparency is laid on white, as before
    Image.fromarray(pixels, "RGBA").save(tmp_path / "rgba.tif")
    assert np.array_equal(read_image(tmp_path / "rgba.tif"), read_image(Image.fromarray(pixels)))


def test_twelve_bands_of_twelve_bits(tmp_path):
    import tifffile

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4096, (6, 7, 12), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "s2.tif", pixels, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(pixels, -1, 0).copy(),
                     photometric="minisblack", planarconfig="separate")  # fmt: skip
    expected = np.rint((pixels[..., [3, 2, 1]] / 4095).clip(0, 1) * 255).astype(np.uint8)
    for source in (tmp_path / "s2.tif", tmp_path / "planes.tif", pixels,
                   torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.int32))):  # fmt: skip
        found = read_image(source, bands=(4, 3, 2), window=(0, 4095))
        assert np.array_equal(found, expected)
        with photo_values(bands=(4, 3, 2), window=(0, 4095)):
            assert np.array_equal(read_image(source), expected)
        with pytest.raises(ImageError):
            read_image(source)
    with pytest.raises(ImageError, match="has 12 bands, counted from 1; asked for"):
        read_image(pixels, bands=(13, 1, 2), window=(0, 1))
    with pytest.raises(ImageError, match="one or three numbers from 1, got"):
        read_image(pixels, bands=(0, 1, 2))
    with pytest.raises(ImageError, match=r"window is \(low, high\)"):
        read_image(pixels, window=(4, 4))


def test_shallow_data_is_warned_of_with_its_range(tmp_path):
    pixels = np.array([[0, 4000], [2000, 1000]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    for source in (pixels, tmp_path / "x.png"):
        with pytest.warns(AttnvizWarning, match=r"from 0 to 4000 of 65535 .*--window 0,4095"):
            read_image(source)
        found = read_image(source, window=(0, 4000))[..., 0]
        assert found.tolist() == [[0, 255], [128, 64]]
    full = np.array([[0, 65535]], np.uint16)  # no warning: the whole range
    assert read_image(full)[..., 0].tolist() == [[0, 255]]


def test_hounsfield_units_and_floats_by_a_window():
    scan = np.array([[-1000, -160, 40, 240, 3000]], np.int16)
    with pytest.raises(ImageError, match=r"dtype int16.*window=\(-1000, 3000\)"):
        read_image(scan)
    assert read_image(scan, window=(-160, 240))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    with pytest.raises(ImageError, match=r"from -2 to 3; .*--window -2,3"):
        read_image(np.array([[-2.0, 3.0]]))
    assert read_image(np.array([[-2.0, 3.0]]), window=(-2, 3))[0, :, 0].tolist() == [0, 255]
    with pytest.raises(ImageError, match="NaN"):
        read_image(np.array([[np.nan]]), window=(0, 1))


def test_bands_on_the_command_line(tmp_path, monkeypatch):
    import attnviz
    from attnviz.cli import main

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4096, (40, 50, 4), dtype=np.uint16)
    _tiff("x.tif", pixels, extra=0)
    words = ["explain", "x.tif", "--model", "tests.cli.tiny:colours", "--preprocess", "unit"]
    assert main([*words, "--bands", "4,2,1", "--window", "0,4095", "--json"]) == 0
    with photo_values(bands=(4, 2, 1), window=(0, 4095)):
        maps = attnviz.explain("tests.cli.tiny:colours", "x.tif", preprocess="unit")
    assert maps.meta["bands"] == "4, 2, 1"
    assert maps.meta["window"] == "0, 4095"
    photo = np.rint(pixels[..., [3, 1, 0]] / 4095 * 255)
    mean = photo[:32, :48].mean((0, 1)) / 255  # what the model's pooling keeps
    scores = 2 * mean - mean.sum()
    assert float(maps.score[0]) == pytest.approx(float(scores.max()), abs=1e-5)
    Path("set/a").mkdir(parents=True)
    Path("x.tif").rename("set/a/x.tif")
    words = ["explain", "set", *words[2:], "--shards", "--out", "shards"]
    assert main([*words, "--bands", "4,2,1", "--window", "0,4095"]) == 0
    (shard,) = Path("shards").glob("*.safetensors")
    assert attnviz.Heatmaps.load(shard).score.tolist() == maps.score.tolist()


def test_bands_and_window_are_applied_once():
    """A photo read before it was explained went through its window twice."""
    pixels = np.random.default_rng(0).integers(0, 4096, (6, 7, 4), dtype=np.uint16)
    with photo_values(bands=(4, 2, 1), window=(0, 4095)):
        once = read_image(pixels)
        assert np.array_equal(read_image(once), once)
    assert np.array_equal(read_image(once, bands=(3, 2, 1)), once[..., ::-1])
    with photo_values(bands=(3, 2, 1)):  # an array of the user's own
        assert np.array_equal(read_image(once.copy()), once[..., ::-1])
