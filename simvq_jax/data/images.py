"""Decoding and geometry of pictures, on numpy arrays of shape (height, width, 3).

Every random function draws from the generator it is given and from nothing else, so a picture and a generator
state fix the result.
"""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from simvq_jax.data.files import Unreadable, file_bytes

# Pillow also opens formats that run other programs (EPS) or hold no photographs; those are refused.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"})
MOST_PIXELS = 178_956_970  # twice Pillow's limit, from where on it raises
# A thinner picture, enlarged until its short side holds a crop, would outgrow any memory.
MAX_ASPECT = 100
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ASPECT_RANGE = (3 / 4, 4 / 3)
_CROP_ATTEMPTS = 10


class UnreadableImage(Unreadable):
    """A file that holds no picture this package can use."""


def decode_image(data: bytes | Path, max_pixels: int) -> np.ndarray:
    """Decode a JPEG, PNG, WebP, GIF, TIFF or BMP file into 8-bit RGB.

    Grey, palette and CMYK pictures are converted; an alpha channel is dropped, not composited; of an
    animation the first frame is taken; the EXIF orientation is applied. Grey integers wider than 8 bits are
    read as 16-bit and scaled by 255 / 65535 with rounding; grey floats must lie in [0, 1] and are scaled by
    255.

    Args:
      data: the bytes of a file, or its path.
      max_pixels: largest height x width accepted, checked on the header before any pixel is decoded.

    Returns:
      uint8 (height, width, 3).

    Raises:
      UnreadableImage: the file cannot be opened, is no picture, is damaged, or is too large.
    """
    image = _open(data, max_pixels)
    try:
        image.load()
        orientation = _orientation(image)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
        return _to_rgb(image)
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen types on damaged files
        raise UnreadableImage(f"The image is damaged: {_sentence(error)}; replace or remove it.") from error


def decode_croppable(data: bytes | Path, max_pixels: int) -> np.ndarray:
    """As `decode_image`, for pictures that crops are cut of: too thin ones raise UnreadableImage as well."""
    image = decode_image(data, max_pixels)
    height, width = image.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UnreadableImage(
            f"The image has {width} x {height} pixels, a side over {MAX_ASPECT} times the other; "
            "cut it into squarer pieces."
        )
    return image


def _open(data: bytes | Path, max_pixels: int) -> Image.Image:
    encoded = file_bytes(data, UnreadableImage) if isinstance(data, Path) else data
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            f"The {len(encoded)} bytes are not an image in any of {', '.join(FORMATS)}; convert or remove the file."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(
            f"The image is over the limit of max_pixels={max_pixels} or Pillow's own ({_sentence(error)}); shrink it."
        ) from error
    except Exception as error:  # Pillow's plugins raise a dozen types on damaged files
        raise UnreadableImage(f"The image header is damaged: {_sentence(error)}; replace or remove it.") from error
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableImage(
            f"The image has {width} x {height} pixels, over the limit of max_pixels={max_pixels}; "
            "shrink it or raise the limit."
        )
    return image


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged metadata does not make the pixels unreadable; such a picture is taken as upright
        return 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;"):
        return _grey_to_rgb(_scale_integers(np.asarray(image).astype(np.int64)))
    if image.mode == "F":
        return _grey_to_rgb(_scale_floats(np.asarray(image)))
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns when palette transparency is dropped in one step
    return np.array(image.convert("RGB"))


def _scale_integers(grey: np.ndarray) -> np.ndarray:
    if grey.min() < 0 or grey.max() > 65535:
        raise UnreadableImage(
            f"The image holds integers from {grey.min()} to {grey.max()}, outside 0..65535; convert it to 8 or 16 bits."
        )
    return ((grey + 128) // 257).astype(np.uint8)


def _scale_floats(grey: np.ndarray) -> np.ndarray:
    low, high = grey.min(), grey.max()
    if not (low >= 0 and high <= 1):  # written so that NaN is refused too
        raise UnreadableImage(
            f"The image holds floats from {low} to {high}, outside [0, 1]; scale it to [0, 1] or convert it to 8 bits."
        )
    return np.round(grey * 255).astype(np.uint8)


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def short_side_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the (height, width) that `resize_short_side` gives; the long side is rounded down."""
    if height <= width:
        return size, width * size // height
    return height * size // width, size


def resize_short_side(image: np.ndarray, size: int) -> np.ndarray:
    """Resize so that the short side has `size` pixels, keeping the aspect ratio (the long side rounded down).

    Pillow's bilinear filter, which widens with the reduction and so does not alias.

    Args:
      image: uint8 (height, width, 3).
      size: pixels of the short side, at least 1.

    Returns:
      uint8 (height', width', 3); the input itself when it has that size already.
    """
    height, width = image.shape[:2]
    if min(height, width) == size:
        return image
    new_height, new_width = short_side_shape(height, width, size)
    return _resize(image, (0, 0, width, height), new_height, new_width)


def random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a square at a uniformly random place; an image with a side under `size` is enlarged to fit first.

    Args:
      image: uint8 (height, width, 3).
      size: pixels of the square's side.
      rng: source of the place.

    Returns:
      uint8 (size, size, 3).
    """
    image = enlarge(image, size)
    top = int(rng.integers(image.shape[0] - size + 1))
    left = int(rng.integers(image.shape[1] - size + 1))
    return image[top : top + size, left : left + size]


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Cut the middle square; an image with a side under `size` is enlarged to fit first.

    Args:
      image: uint8 (height, width, 3).
      size: pixels of the square's side.

    Returns:
      uint8 (size, size, 3).
    """
    image = enlarge(image, size)
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """Return the image with its short side brought up to `size` pixels, or itself when it is not shorter."""
    return resize_short_side(image, size) if min(image.shape[:2]) < size else image


def random_resized_crop(
    image: np.ndarray, size: int, scale: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Cut a rectangle of random area and aspect ratio (3/4 to 4/3) and resize it to a square.

    The crop of Szegedy et al. 2015. After ten rectangles that do not fit, the largest middle square is taken.
    A small image is enlarged by the resize.

    Args:
      image: uint8 (height, width, 3).
      size: pixels of the result's side.
      scale: smallest and largest share of the image's area, 0 < smallest <= largest <= 1.
      rng: source of area, ratio and place.

    Returns:
      uint8 (size, size, 3).
    """
    top, left, height, width = _random_rectangle(image.shape[0], image.shape[1], scale, rng)
    return _resize(image, (left, top, left + width, top + height), size, size)


def _random_rectangle(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    for _ in range(_CROP_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(*np.log(_ASPECT_RANGE)))
        crop_width = round(math.sqrt(area * ratio))
        crop_height = round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _resize(image: np.ndarray, box: tuple[int, int, int, int], height: int, width: int) -> np.ndarray:
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.array(resized)


def flip(image: np.ndarray) -> np.ndarray:
    """Mirror left and right. image: (height, width, channels)."""
    return image[:, ::-1]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Map floats in [-1, 1], of any shape, to uint8 0..255: clip, then round to nearest.

    Raises:
      ValueError: the image holds NaN.
    """
    if np.isnan(image).any():
        raise ValueError("to_uint8 was given NaN pixels; check the model's output for divergence.")
    return np.round((np.clip(image, -1, 1).astype(np.float32) + 1) * np.float32(127.5)).astype(np.uint8)
