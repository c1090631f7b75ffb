"""Decoding of every kind of file, and the geometry of crops."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simvq_jax.data import images
from simvq_jax.models.tokenizer import as_float

LIMIT = 10**6


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size on paper, with a single row's worth of data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_come_back_exactly(file_format):
    pixels = noise(20, 30)
    decoded = images.decode_image(encode(Image.fromarray(pixels), file_format), LIMIT)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_back_in_shape(file_format):
    decoded = images.decode_image(encode(Image.fromarray(noise(20, 30)), file_format), LIMIT)
    assert decoded.shape == (20, 30, 3) and decoded.dtype == np.uint8


def test_a_path_is_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.fromarray(noise(4, 5))))
    np.testing.assert_array_equal(images.decode_image(path, LIMIT), noise(4, 5))


def test_one_pixel():
    decoded = images.decode_image(encode(Image.fromarray(np.full((1, 1, 3), 7, np.uint8))), LIMIT)
    np.testing.assert_array_equal(decoded, np.full((1, 1, 3), 7))


def test_grey_is_repeated():
    grey = noise(6, 7, 1)
    decoded = images.decode_image(encode(Image.fromarray(grey)), LIMIT)
    np.testing.assert_array_equal(decoded, np.repeat(grey[:, :, None], 3, axis=2))


def test_palette_with_transparency():
    palette = Image.fromarray(noise(8, 8)).quantize(16)
    decoded = images.decode_image(encode(palette, transparency=bytes([0, 128, 255])), LIMIT)
    np.testing.assert_array_equal(decoded, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_is_converted(file_format):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    decoded = images.decode_image(encode(red, file_format), LIMIT)
    assert decoded.shape == (8, 8, 3)
    assert decoded[..., 0].min() > 240 and decoded[..., 1:].max() < 15


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_not_composited(mode):
    pixels = noise(5, 5, len(mode))
    pixels[..., -1] = 0
    decoded = images.decode_image(encode(Image.fromarray(pixels)), LIMIT)
    expected = pixels[..., :3] if mode == "RGBA" else np.repeat(pixels[..., :1], 3, axis=2)
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(file_format):
    grey = np.array([[0, 128, 129, 257], [32768, 65000, 65406, 65535]], np.uint16)
    decoded = images.decode_image(encode(Image.fromarray(grey), file_format), LIMIT)
    np.testing.assert_array_equal(decoded[..., 0], np.round(grey / 257))
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_wide_integers():
    inside = Image.fromarray(np.array([[0, 65535]], np.int32))
    np.testing.assert_array_equal(images.decode_image(encode(inside, "TIFF"), LIMIT)[0, :, 0], [0, 255])
    outside = Image.fromarray(np.array([[-1, 70000]], np.int32))
    with pytest.raises(images.UnreadableImage, match=r"from -1 to 70000, outside 0\.\.65535"):
        images.decode_image(encode(outside, "TIFF"), LIMIT)


def test_floats():
    inside = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
    np.testing.assert_array_equal(images.decode_image(encode(inside, "TIFF"), LIMIT)[0, :, 1], [0, 128, 255])
    for bad in (1.5, np.nan):
        with pytest.raises(images.UnreadableImage, match=r"outside \[0, 1\]"):
            images.decode_image(encode(Image.fromarray(np.array([[0, bad]], np.float32)), "TIFF"), LIMIT)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_animation_gives_its_first_frame(file_format):
    frames = [Image.new("RGB", (9, 8), color) for color in ((250, 0, 0), (0, 250, 0))]
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    decoded = images.decode_image(data, LIMIT)
    assert decoded.shape == (8, 9, 3)
    assert decoded[..., 0].min() > 230 and decoded[..., 1].max() < 20


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(file_format, orientation):
    pixels = noise(20, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(Image.fromarray(pixels), file_format, exif=exif, **options)
    mirrored = pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]  # quarter turns to the left
    decoded = images.decode_image(data, LIMIT)
    np.testing.assert_array_equal(decoded, np.rot90(mirrored, turns))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated(file_format):
    data = encode(Image.fromarray(noise(64, 64)), file_format)
    with pytest.raises(images.UnreadableImage):
        images.decode_image(data[: len(data) // 2], LIMIT)


@pytest.mark.parametrize("data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_not_an_image(data):
    with pytest.raises(images.UnreadableImage, match=f"The {len(data)} bytes are not an image"):
        images.decode_image(data, LIMIT)


def test_corrupt():
    data = bytearray(encode(Image.fromarray(noise(64, 64))))
    data[200:400] = bytes(200)
    with pytest.raises(images.UnreadableImage, match="damaged"):
        images.decode_image(bytes(data), LIMIT)


@pytest.mark.parametrize("side", [1001, 10_000, 100_000])
def test_enormous_is_refused_on_its_header(side):
    with pytest.raises(images.UnreadableImage, match="over the limit of max_pixels=1000000"):
        images.decode_image(png_header(side, side), LIMIT)


def test_missing_path():
    with pytest.raises(images.UnreadableImage, match=r"nowhere\.png cannot be opened: No such file"):
        images.decode_image(Path("nowhere.png"), LIMIT)


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 60), width=st.integers(1, 60), size=st.integers(1, 48), seed=st.integers(0, 2**32))
def test_crops_have_their_shape(height, width, size, seed):
    image, rng = noise(height, width), np.random.default_rng(seed)
    crops = [
        images.random_crop(image, size, rng),
        images.center_crop(image, size),
        images.random_resized_crop(image, size, (0.1, 1.0), rng),
    ]
    for crop in crops:
        assert crop.shape == (size, size, 3) and crop.dtype == np.uint8


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 60), width=st.integers(1, 60), size=st.integers(1, 48))
def test_short_side_has_its_size(height, width, size):
    resized = images.resize_short_side(noise(height, width), size)
    assert min(resized.shape[:2]) == size
    assert resized.shape[:2] == images.short_side_shape(height, width, size)
    assert abs(max(resized.shape[:2]) - size * max(height, width) / min(height, width)) < 1


def test_crops_are_parts_of_the_picture():
    image = noise(12, 9)
    np.testing.assert_array_equal(images.center_crop(image, 5), image[3:8, 2:7])
    windows = np.lib.stride_tricks.sliding_window_view(image, (5, 5, 3))[:, :, 0].reshape(-1, 5, 5, 3)
    rng = np.random.default_rng(0)
    found = {
        int(np.flatnonzero((windows == images.random_crop(image, 5, rng)).all(axis=(1, 2, 3)))[0]) for _ in range(400)
    }
    assert found == set(range(len(windows)))  # every place occurs, corners included


def test_reduction_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    reduced = images.resize_short_side(stripes, 16)
    assert reduced.min() > 110 and reduced.max() < 145


def test_flip_mirrors_columns():
    image = noise(3, 4)
    np.testing.assert_array_equal(images.flip(image)[:, 0], image[:, 3])


def test_floats_become_levels():
    every = np.arange(256, dtype=np.uint8)
    scaled = np.asarray(as_float(every))
    assert scaled.dtype == np.float32 and scaled[0] == -1 and scaled[255] == 1
    np.testing.assert_array_equal(images.to_uint8(scaled), every)
    # 0.4 and 0.6 of a level above 127: rounded, not cut; what lies outside is clipped.
    values = np.array([127.4, 127.6, -50, 400], np.float32) / 127.5 - 1
    np.testing.assert_array_equal(images.to_uint8(values), [127, 128, 0, 255])


def test_float_conversion_refuses_what_it_would_distort():
    with pytest.raises(ValueError, match="NaN"):
        images.to_uint8(np.array([np.nan]))
