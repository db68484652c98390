"""Text to predict character by character, offline: Python's own manual.

Every Python installation holds the language reference as text (`help("for")` shows it),
about 465,000 characters. A window of it and the character that comes next are an
example: a problem without images, convolutions or BatchNorm.
"""

from typing import Any

import numpy as np

from hyperdyn_jax.data.dataset import Split

WINDOW = 16  # characters that the next one is predicted from
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))  # and one class for all others
BLOCK = 500  # characters; a window never leaves its block, so no two splits share one
SIZES = {"train": 32_768, "validation": 4_096, "test": 4_096}
_OF_TEN = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}


def characters() -> dict[str, Any]:
    """Windows of the Python language reference and the characters after them.

    Blocks of the text are dealt to the splits by a fixed shuffle, eight of ten to
    training; each split is a fixed draw of its windows, the last of several as the
    length of the text, which differs a little between versions of Python, allows.

    Returns:
      Arguments of `ArrayDataset`: windows are u8[n, 16, 1, 1] of classes 0 to 96,
      labels i32[n].
    """
    codes = encode(_manual())
    blocks = codes[: len(codes) // BLOCK * BLOCK].reshape(-1, BLOCK)
    rng = np.random.RandomState(0)
    blocks = blocks[rng.permutation(len(blocks))]
    tenth = np.arange(len(blocks)) % 10
    splits = {
        name: _draw(blocks[np.isin(tenth, _OF_TEN[name])], size, rng)
        for name, size in SIZES.items()
    }
    return {**splits, "classes": len(ALPHABET) + 1, "standardize": False}


def encode(text: str) -> np.ndarray:
    """Classes of characters, u8[n]: their place in `ALPHABET`, or the one after it."""
    table = np.full(0x110000, len(ALPHABET), np.uint8)
    table[[ord(character) for character in ALPHABET]] = np.arange(len(ALPHABET))
    return table[np.frombuffer(text.encode("utf-32-le"), np.uint32)]


def _manual() -> str:
    from pydoc_data import topics  # half a megabyte that other data do not need

    return "\n".join(topics.topics[name] for name in sorted(topics.topics))


def _draw(blocks: np.ndarray, size: int, rng: np.random.RandomState) -> Split:
    """Windows at places drawn without replacement, as many as there are at most."""
    per_block = BLOCK - WINDOW
    places = rng.permutation(len(blocks) * per_block)[:size]
    block, start = np.divmod(places, per_block)
    window = blocks[block[:, None], start[:, None] + np.arange(WINDOW + 1)]
    images = window[:, :WINDOW].reshape(-1, WINDOW, 1, 1)
    return Split(images, window[:, WINDOW].astype(np.int32))
