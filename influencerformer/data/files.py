"""Reading images, label maps, JSON and split files, with one clear sentence where one cannot be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from influencerformer.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")
# What a file may turn out to be, whatever its name says: Pillow knows formats (EPS) that start other programs.
_IMAGE_KINDS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")


def examples(items: Sequence[object], limit: int = 3) -> str:
    """The first few of `items` and how many there are, for a message: "a, b, c and 7 more"."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def shown(value: object) -> str:
    """A value of a file for a message: short, on one line, and without what a terminal would act on."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:200])
    return text if len(text) <= 100 else f"{text[:100]}..."


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, numbers too long, nested too deep
        raise UserError(f"{path} is not valid JSON: {error}") from None


def _open(path: Path, one_page: bool = False) -> Image.Image:
    try:
        image = Image.open(path, formats=_IMAGE_KINDS)
        pages = getattr(image, "n_frames", 1) if one_page else 1
        image.load()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large for an image ({error}): cut it into parts") from None
    except Exception as error:  # what Pillow raises depends on what the file is
        if path.is_file() and not path.stat().st_size:
            raise UserError(f"{path} cannot be read as an image (it is empty, 0 bytes): replace the file") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as an image ({reason}): replace the file") from error
    if pages > 1:
        raise UserError(f"{path} has {pages} pages: save one page a file")
    if not min(image.size):
        raise UserError(f"{path} is an image without a pixel: replace the file")
    return image


def read_image(path: Path) -> Tensor:
    """Read an image of any common kind as RGB.

    Grey is repeated over the three channels, an alpha channel is dropped, palettes are resolved. Values that
    do not fit 8 bits (16-bit and floating-point grey, as microscopes write it) are stretched from the image's
    own minimum and maximum to 0..255, because such files rarely use their full range.

    Returns:
        (3, H, W) uint8.
    """
    image = _open(path)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
        grey = torch.from_numpy(values.round().astype(np.uint8))
        return grey.expand(3, -1, -1).contiguous()
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def read_label_map(path: Path) -> Tensor:
    """Read an integer label image: one channel, 0 background, any positive value one instance.

    Returns:
        (H, W) int64, values as in the file.

    Raises:
        UserError: a colour or floating-point image, several pages, negative values, or a file that is no image.
    """
    image = _open(path, one_page=True)
    if image.mode == "F":
        raise UserError(f"label map {path} holds floating-point values: save integers (8 or 16 bit) instead")
    if len(image.getbands()) != 1:
        raise UserError(
            f"label map {path} is a {image.mode} image with {len(image.getbands())} channels: expected one "
            "channel of integers, 0 for background and one value for each instance"
        )
    labels = torch.from_numpy(np.array(image).astype(np.int64))
    if labels.numel() and int(labels.min()) < 0:
        raise UserError(f"label map {path} holds negative values: expected 0 for background, 1.. for instances")
    return labels


def read_split(path: Path) -> list[str]:
    """The lines of a split file, blank ones left out.

    Raises:
        UserError: the file is missing (the message names the ones beside it), empty, or names an entry twice.
    """
    if not path.is_file():
        beside = sorted(other.name for other in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        there = f"there are {examples(beside)}" if beside else "there is no .txt file beside it"
        raise UserError(f"split file {path} does not exist: expected one name a line ({there})")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"split file {path} cannot be read as text ({error}): expected one name a line") from None
    if not names:
        raise UserError(f"split file {path} is empty: expected one name a line")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise UserError(f"split file {path} names {examples(twice)} more than once: keep one line for each")
    return names


def split_path(root: Path, split: str) -> Path:
    """ROOT/NAME.txt for a name such as "train"; a path that ends in .txt is taken relative to ROOT."""
    return root / (split if split.endswith(".txt") else f"{split}.txt")
