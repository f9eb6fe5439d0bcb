"""COCO 2017: images and instance annotations from the server of the COCO consortium."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from influencerformer.data.download.disk import make_folder, move, require_space, say
from influencerformer.data.download.extract import unpacked
from influencerformer.data.download.fetch import RemoteFile, fetch_file
from influencerformer.errors import UserError

BASE_URL = "http://images.cocodataset.org"
TERMS = (
    "COCO: the annotations are licensed CC BY 4.0, the images come under the Flickr terms of use "
    "(https://cocodataset.org/#termsofuse)"
)


@dataclass(frozen=True)
class Archive:
    """One zip file of COCO 2017.

    Sizes and SHA-256 are those in the list of checksums of TensorFlow Datasets (url_checksums/coco.txt); COCO itself
    publishes none.

    Attributes:
        path: below the base address.
        size: bytes.
        sha256: in hexadecimal.
        unpacked: about how many bytes of it are used.
    """

    path: str
    size: int
    sha256: str
    unpacked: int

    @property
    def name(self) -> str:
        """File name."""
        return self.path.rsplit("/", 1)[-1]


IMAGES = {
    "val2017": Archive(
        "zips/val2017.zip",
        815_585_330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        820_000_000,
    ),
    "train2017": Archive(
        "zips/train2017.zip",
        19_336_861_798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        19_400_000_000,
    ),
}
COUNTS = {"val2017": 5000, "train2017": 118_287}
ANNOTATIONS = Archive(
    "annotations/annotations_trainval2017.zip",
    252_907_541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    500_000_000,
)


def download_coco(
    root: Path,
    parts: Sequence[str] = ("val2017",),
    *,
    base_url: str = BASE_URL,
    console: Console | None = None,
) -> None:
    """Downloads parts of COCO 2017 in the layout of the configurations in configs/coco.

    Images go to `root`/PART/*.jpg, annotations to `root`/annotations/instances_PART.json; what is there already is not
    fetched again. val2017 takes 0.8 GB, train2017 19.3 GB, the annotations 0.25 GB to download; the archives are kept
    in `root` and can be deleted afterwards, so twice that is needed on the disk.

    What is verified: size and SHA-256 of every archive (see `Archive`; the server speaks plain http), the checksum of
    every unpacked file, and the number of images.

    Args:
        root: folder of the data set.
        parts: of "val2017" and "train2017".
        base_url: another server with the same paths.
        console: takes progress and messages; stderr by default.

    Raises:
        UserError: an unknown part; an archive cannot be had, is not what it should be, or does not fit on the disk; or
            `root`/PART exists with another number of images. Nothing that exists is replaced.
    """
    console = console or Console(stderr=True)
    unknown = [part for part in parts if part not in IMAGES]
    if unknown or not parts:
        raise UserError(f"unknown part of COCO {', '.join(unknown) or '(none)'}: choose from {', '.join(IMAGES)}")
    parts = list(dict.fromkeys(parts))
    annotations = [part for part in parts if not (root / _annotation(part)).is_file()]
    images = [part for part in parts if not _has_images(root / part, COUNTS[part])]
    if not annotations and not images:
        say(console, f"COCO {', '.join(parts)} is complete in {root}: nothing to do")
        return
    say(console, TERMS)
    make_folder(root)
    archives = [ANNOTATIONS] * bool(annotations) + [IMAGES[part] for part in images]
    to_fetch = sum(archive.size for archive in archives if not (root / archive.name).exists())
    to_unpack = sum(archive.unpacked for archive in archives)
    require_space(root, to_fetch + to_unpack, "for the archives of COCO and their content")
    for archive in archives:
        remote = RemoteFile(f"{base_url.rstrip('/')}/{archive.path}", archive.size, archive.sha256)
        fetch_file(remote, root / archive.name, console=console)
    if annotations:
        _unpack_annotations(root, annotations, console)
    for part in images:
        _unpack_images(root, part, console)
    used = ", ".join(archive.name for archive in archives)
    say(console, f"COCO {', '.join(parts)} is complete in {root}; no longer needed: {used}")


def _annotation(part: str) -> str:
    return f"annotations/instances_{part}.json"


def _count_images(folder: Path) -> int:
    return sum(1 for path in folder.iterdir() if path.suffix == ".jpg")


def _has_images(folder: Path, expected: int) -> bool:
    """False where the folder does not exist; one that does must hold all images."""
    if not folder.exists():
        return False
    count = _count_images(folder) if folder.is_dir() else 0
    if count != expected:
        raise UserError(
            f"{folder} holds {count} of {expected} images: move it away and run the same command again to unpack all"
        )
    return True


def _unpack_annotations(root: Path, parts: list[str], console: Console) -> None:
    archive = root / ANNOTATIONS.name
    names = {_annotation(part) for part in parts}
    with unpacked(
        archive, root, expected_bytes=ANNOTATIONS.unpacked, wanted=names.__contains__, console=console
    ) as content:
        missing = sorted(name for name in names if not (content / name).is_file())
        if missing:
            raise UserError(f"{archive} does not hold {', '.join(missing)}: remove it and run the same command again")
        make_folder(root / "annotations")
        for name in sorted(names):
            move(content / name, root / name)


def _unpack_images(root: Path, part: str, console: Console) -> None:
    archive = root / IMAGES[part].name
    with unpacked(archive, root, expected_bytes=IMAGES[part].unpacked, console=console) as content:
        count = _count_images(content / part) if (content / part).is_dir() else 0
        if count != COUNTS[part]:
            raise UserError(
                f"{archive} holds {count} of {COUNTS[part]} images in {part}/: remove it and run the same command again"
            )
        move(content / part, root / part)
