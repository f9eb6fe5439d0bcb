"""S3DIS with instance labels: preprocessed, from the Pointcept project, or the original, from its present host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from influencerformer.data.download.disk import make_folder, move, require_space, say
from influencerformer.data.download.extract import unpacked
from influencerformer.data.download.fetch import RemoteFile, fetch_file
from influencerformer.data.download.s3dis_rooms import check_arrays, check_texts, have_instances, rooms_of
from influencerformer.errors import UserError

SourceName = Literal["pointcept", "original"]

AREAS = tuple(f"Area_{number}" for number in range(1, 7))
ROOMS = 272
TERMS = (
    "S3DIS comes under the licence of its authors (Armeni et al., Stanford): agree to it before you use the data, at "
    "https://docs.google.com/forms/d/e/1FAIpQLScDimvNMCGhy_rmBA2gHfDu3naktRm6A8BPwAWWDv-Uhm6Shw/viewform"
)


@dataclass(frozen=True)
class Source:
    """An archive that holds the six areas of S3DIS.

    Attributes:
        remote: where it is and what is known of it.
        name: of the file.
        download: about how many bytes it has.
        unpacked: about how many bytes its content has.
        check_room: says what is wrong with a room, or None.
    """

    remote: RemoteFile
    name: str
    download: int
    unpacked: int
    check_room: Callable[[Path], str | None]


SOURCES: dict[str, Source] = {
    "pointcept": Source(
        RemoteFile("https://huggingface.co/datasets/Pointcept/s3dis-compressed/resolve/main/s3dis.tar.gz"),
        "s3dis.tar.gz",
        2_040_000_000,
        8_500_000_000,  # 273 million points of 12 + 3 + 2 + 2 bytes and normals of 12
        check_arrays,
    ),
    "original": Source(
        RemoteFile(
            "https://cvg-data.inf.ethz.ch/s3dis/Stanford3dDataset_v1.2_Aligned_Version.zip",
            4_394_701_719,
            "f16db73310983e6b4df9b3d5290d20315e0cdf56c14f0d795f96d372378fce94",
        ),
        "Stanford3dDataset_v1.2_Aligned_Version.zip",
        4_394_701_719,
        20_000_000_000,  # 273 million lines of about 36 bytes, in the room's file and again in Annotations
        check_texts,
    ),
}


def download_s3dis(
    root: Path,
    source: SourceName = "pointcept",
    *,
    url: str | None = None,
    sha256: str | None = None,
    console: Console | None = None,
) -> None:
    """Downloads the rooms of S3DIS to `root`/Area_1 .. Area_6; does nothing where they are there already.

    Both sources have 272 rooms with their walls aligned to the axes, and instances: the objects of the original
    annotation. The semantic-only versions in circulation (blocks in HDF5, for one) cannot stand in for them.

    - pointcept: s3dis.tar.gz of the data set Pointcept/s3dis-compressed on the Hugging Face hub, 2.04 GB, last changed
      in May 2024, open without an account. Each room is a folder Area_A/ROOM with coord.npy (N, 3) float32 in metres,
      color.npy (N, 3) uint8, segment.npy (N, 1) int16 class 0..12, instance.npy (N, 1) int16 number of the object in
      its room, and normal.npy (N, 3) float32.
    - original: Stanford3dDataset_v1.2_Aligned_Version.zip from ETH Zurich, 4.4 GB. Each room is a folder with
      Annotations/CLASS_n.txt, a text file of lines `x y z r g b` for each object.

    What is verified of pointcept: the SHA-256 given here, or else the one that the hub states for the file; checksum
    and length of the gzip stream; that each area has rooms, each with the four arrays above in matching shapes; and
    that the instances are not just the classes. No exact size or SHA-256 is published, so none is built in. Of
    original: size and SHA-256 (not published by ETH, but reported alike by two users independent of each other), the
    checksum of each file, and that each room has annotations.

    What is not known: the wording of S3DIS's licence, which is shown with its form of request; users report that it
    forbids to pass the data on, and Pointcept asks to agree to it before taking its copy, which names no licence of
    its own. See `TERMS`, which is printed.

    Args:
        root: folder of the data set; the archive is kept in it and can be deleted afterwards.
        source: which archive.
        url: another address of the same archive.
        sha256: of the archive, if it is to be another one than stated.
        console: takes progress and messages; stderr by default.

    Raises:
        UserError: the archive cannot be had, is not what it should be, or does not fit on the disk; or `root` holds
            something else under the name of an area. Areas that are there are never replaced.
    """
    console = console or Console(stderr=True)
    origin = SOURCES[source]
    remote = replace(origin.remote, url=url or origin.remote.url, sha256=sha256 or origin.remote.sha256)
    present = [area for area in AREAS if (root / area).exists()]
    rooms, problem = _check(root, present, origin)
    if problem is not None:
        raise UserError(f"{root} holds another or a broken S3DIS: {problem}; move the area away or use another folder")
    if len(present) == len(AREAS):
        say(console, f"S3DIS is complete in {root} ({_count(rooms)}): nothing to do")
        return
    say(console, TERMS)
    make_folder(root)
    archive = root / origin.name
    to_fetch = 0 if archive.exists() else origin.download
    require_space(root, to_fetch + origin.unpacked, "for the archive of S3DIS and its content")
    fetch_file(remote, archive, console=console)
    with unpacked(archive, root, expected_bytes=origin.unpacked, console=console) as content:
        found = _find_areas(content)
        rooms, problem = _check(found, AREAS, origin)
        if problem is None and origin.check_room is check_arrays and not have_instances(_all_rooms(found)):
            problem = "it has no instance labels: in no room does instance.npy hold more values than segment.npy"
        if problem is not None:
            raise UserError(f"{archive} is not the archive expected: {problem}; replace it by {origin.remote.url}")
        for area in AREAS:
            if area not in present:
                move(found / area, root / area)
    say(console, f"S3DIS is complete in {root} ({_count(rooms)}); {archive} is no longer needed")


def _count(rooms: int) -> str:
    return f"{rooms} rooms" if rooms == ROOMS else f"{rooms} rooms, though S3DIS has {ROOMS}"


def _find_areas(content: Path) -> Path:
    """The folder that holds the areas: the archive's root or a folder in it."""
    for folder in (content, *sorted(content.iterdir())):
        if any((folder / area).is_dir() for area in AREAS):
            return folder
    return content


def _all_rooms(root: Path) -> list[Path]:
    return [room for area in AREAS for room in rooms_of(root / area)]


def _check(root: Path, areas: Sequence[str], origin: Source) -> tuple[int, str | None]:
    """Number of rooms in these areas, and the first thing wrong with them or None."""
    count = 0
    for area in areas:
        rooms = rooms_of(root / area)
        if not rooms:
            return count, f"{area} holds no rooms"
        for room in rooms:
            problem = origin.check_room(room)
            if problem is not None:
                return count, problem
        count += len(rooms)
    return count, None
