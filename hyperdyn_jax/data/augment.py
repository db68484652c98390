"""Changes of training images: whole ones on the device, parts while decoding."""

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperdyn_jax.data import tfds_records as records
from hyperdyn_jax.data.tfds_records import Example

if TYPE_CHECKING:
    from PIL import Image

# Random crops as Szegedy et al. 2014 (1409.4842, section 6) draw them.
AREA = (0.08, 1.0)  # of the image
RATIO = (3 / 4, 4 / 3)  # of width to height
ATTEMPTS = 10  # to draw a box that fits, before the centre is taken

CENTRE = 224 / 256  # side of the part that is evaluated, of the shorter side


@dataclasses.dataclass(frozen=True)
class PadCropFlip:
    """Pads an image f[h, w, c], crops it at a random place, mirrors every other one.

    He et al. 2015 (1512.03385, section 4.2) pad by 4 pixels after the mean is taken off
    the image, so that the border has the mean colour. `ArrayDataset` augments
    before it normalises, so it is given that colour as `fill`.

    pixels: width of the border on each side.
    fill: its colour, c numbers in [0, 255].
    flip: whether half of the images are mirrored, left to right.
    """

    pixels: int
    fill: tuple[float, ...]
    flip: bool = True

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        offset, mirror = self.draw(key)
        pad, (height, width, channels) = self.pixels, image.shape
        fill = jnp.asarray(self.fill, image.dtype)[None, None]
        border = jnp.broadcast_to(fill, (height + 2 * pad, width + 2 * pad, channels))
        padded = jax.lax.dynamic_update_slice(border, image, (pad, pad, 0))
        cropped = jax.lax.dynamic_slice(padded, (*offset, 0), image.shape)
        return jnp.where(mirror, cropped[:, ::-1], cropped)

    def draw(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One image's randomness.

        Returns:
          i32[2], top and left of the crop in the padded image, 0..2 * pixels; and
          bool[], whether it is mirrored.
        """
        where, which = jax.random.split(key)
        offset = jax.random.randint(where, (2,), 0, 2 * self.pixels + 1)
        return offset, jax.random.bernoulli(which) & self.flip


class Box(NamedTuple):
    """A part of an image, pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class TrainingCrop:
    """Decodes a random part of an image, mirrored or not: u8[size, size, 3]."""

    size: int

    def __call__(self, example: Example, rng: np.random.Generator) -> np.ndarray:
        box = random_box(*records.image_size(example), rng)
        return crop(example, box, self.size, mirrored=rng.random() < 0.5)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """Decodes the centre of an image: u8[size, size, 3].

    The same as resizing its shorter side to size / `CENTRE` and cutting out the centre.
    """

    size: int

    def __call__(self, example: Example) -> np.ndarray:
        return crop(example, centre_box(*records.image_size(example)), self.size)


def random_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """A box of random area and shape at a random place of an image.

    Areas are uniform in `AREA`, ratios log-uniform in `RATIO`; a box that does not fit
    is drawn again, and after `ATTEMPTS` it is the largest one at the centre that has
    a ratio in `RATIO`.
    """
    for _ in range(ATTEMPTS):
        area = rng.uniform(*AREA) * height * width
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = rng.integers((height - h + 1, width - w + 1))
            return Box(int(top), int(left), h, w)
    h = min(height, max(1, round(width / RATIO[0])))
    w = min(width, max(1, round(height * RATIO[1])))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def centre_box(height: int, width: int) -> Box:
    """The square at the centre whose side is `CENTRE` of the shorter side."""
    side = max(1, round(CENTRE * min(height, width)))
    return Box((height - side) // 2, (width - side) // 2, side, side)


def crop(example: Example, box: Box, size: int, mirrored: bool = False) -> np.ndarray:
    """Decodes a part of an image and resizes it, bilinearly: u8[size, size, 3].

    A part at least twice as large is decoded at a half, a quarter or an eighth: that is
    faster, and bilinear interpolation then leaves few pixels out.

    Args:
      example: with the image.
      box: the part.
      size: height and width of what becomes of it.
      mirrored: left to right.

    Raises:
      DataError: the image cannot be decoded, with its place.
    """
    times = min(box.height, box.width) // size
    reduction = next(k for k in (8, 4, 2, 1) if k <= max(1, times))
    image = records.load_image(example, reduction)
    top, left, height, width = box
    part = (
        left // reduction,
        top // reduction,
        (left + width) // reduction,
        (top + height) // reduction,
    )
    return _resize(image.crop(part), size, mirrored)


def _resize(image: "Image.Image", size: int, mirrored: bool) -> np.ndarray:
    """Bilinear interpolation between the four nearest pixels: u8[size, size, 3].

    Pillow's own is twice as slow (`Image.transform`), or averages over more pixels
    where it shrinks (`Image.resize`).
    """
    # NumPy gathers pixels of four bytes, as Pillow holds them, many times as fast as
    # pixels of three.
    raw = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint32)
    words = raw.reshape(image.height, image.width)
    first, second, share = _neighbours(image.width, size)
    if mirrored:
        first, second, share = first[::-1], second[::-1], share[::-1]
    left, right = (
        words.take(columns, 1).view(np.uint8).astype(np.float32)
        for columns in (first, second)
    )
    wide = _between(left, right, share.repeat(4))
    first, second, share = _neighbours(image.height, size)
    mixed = _between(wide.take(first, 0), wide.take(second, 0), share[:, None])
    mixed += 0.5  # the cast below rounds down
    pixels = mixed.astype(np.uint8)
    opener = records.import_package("PIL.Image")
    four = opener.frombuffer("RGBX", (size, size), pixels, "raw", "RGBX", 0, 1)
    return np.frombuffer(four.tobytes("raw", "RGB"), np.uint8).reshape(size, size, 3)


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel the two old ones beside its centre, i[size] each, and the
    share of the second: f32[size]."""
    places = (np.arange(size) + 0.5) * (length / size) - 0.5
    places = np.clip(places, 0, length - 1)
    first = places.astype(np.intp)
    second = np.minimum(first + 1, length - 1)
    return first, second, (places - first).astype(np.float32)


def _between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """A weighted mean; both are overwritten."""
    second -= first
    second *= share
    first += second
    return first
