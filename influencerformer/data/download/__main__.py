"""The command `python -m influencerformer.data.download`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from influencerformer.data.download import coco, s3dis
from influencerformer.data.download.disk import in_words
from influencerformer.errors import UserError

SCANNET = (
    "ScanNet is not downloaded here, because each user has to sign its terms of use: fill out the agreement linked at "
    "https://github.com/ScanNet/ScanNet and send it to the address given there. With the script that you get by mail "
    "fetch the files _vh_clean_2.ply, _vh_clean_2.0.010000.segs.json and .aggregation.json of every scene, and place "
    "them as ROOT/scans/scene0000_00/scene0000_00_vh_clean_2.ply and so on, with scannetv2-labels.combined.tsv, "
    "scannetv2_train.txt and scannetv2_val.txt in ROOT"
)
DESCRIPTION = """\
Downloads public data sets for instance segmentation. A download that was stopped goes on where it was when the
same command is run again; what is complete is left alone, and nothing that exists is ever replaced.
"""
S3DIS_HELP = f"""\
S3DIS (272 rooms as point clouds, 13 classes) with instance labels, to ROOT/Area_1 .. ROOT/Area_6.

sources:
  pointcept  arrays, 2.0 GB to download and 8.5 GB unpacked, from
             {s3dis.SOURCES["pointcept"].remote.url}
  original   text, 4.4 GB to download and about 20 GB unpacked, from
             {s3dis.SOURCES["original"].remote.url}

{s3dis.TERMS}
"""
COCO_HELP = f"""\
COCO 2017, to ROOT/val2017, ROOT/train2017 and ROOT/annotations, as the configurations in configs/coco expect it, from
{coco.BASE_URL}
val2017 takes 0.8 GB, train2017 19.3 GB, the annotations of both 0.25 GB; twice that with the unpacked files.
"""


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"expected 64 hexadecimal digits, got {text!r}")
    return text.lower()


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m influencerformer.data.download", description=DESCRIPTION, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="dataset", required=True, metavar="{s3dis,coco,scannet}")

    command = commands.add_parser(
        "s3dis", help="S3DIS, point clouds of rooms, 2.0 or 4.4 GB", description=S3DIS_HELP, formatter_class=raw
    )
    command.add_argument("--root", type=Path, required=True, help="folder of the data set, made where it is missing")
    command.add_argument(
        "--source", default="pointcept", choices=sorted(s3dis.SOURCES), help="archive to use (default: pointcept)"
    )
    command.add_argument("--url", help="another address of the same archive, a mirror for example")
    command.add_argument(
        "--sha256",
        type=_sha256,
        help="SHA-256 of the archive (default: what the Hugging Face hub states for pointcept, a built-in one for "
        "original)",
    )

    command = commands.add_parser(
        "coco", help="COCO 2017, photographs, 0.8 or 19.3 GB", description=COCO_HELP, formatter_class=raw
    )
    command.add_argument("--root", type=Path, required=True, help="folder of the data set, made where it is missing")
    command.add_argument(
        "--parts",
        nargs="+",
        default=["val2017"],
        choices=sorted(coco.IMAGES),
        help="images to download, each with its annotations (default: val2017)",
    )
    command.add_argument("--base-url", default=coco.BASE_URL, help="another server with the same paths")

    commands.add_parser("scannet", help="how to obtain ScanNet; downloads nothing", description=SCANNET)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, 2 (see the message) or 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    try:
        if options.dataset == "s3dis":
            s3dis.download_s3dis(options.root, options.source, url=options.url, sha256=options.sha256)
        elif options.dataset == "coco":
            coco.download_coco(options.root, options.parts, base_url=options.base_url)
        else:
            raise UserError(SCANNET)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: {_kept(options.root)}the same command resumes", file=sys.stderr)
        return 130
    return 0


def _kept(root: Path) -> str:
    parts = sorted(root.glob("*.part")) if root.is_dir() else []
    return "".join(f"{part} keeps {in_words(part.stat().st_size)}, " for part in parts)


if __name__ == "__main__":
    sys.exit(main())
