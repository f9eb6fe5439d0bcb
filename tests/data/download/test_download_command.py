from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from influencerformer.data.download import coco, s3dis
from influencerformer.data.download.__main__ import main
from influencerformer.data.download.disk import cannot_write, in_words, move
from influencerformer.errors import UserError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """What the command asked for; nothing is downloaded."""
    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(s3dis, "download_s3dis", lambda *a, **o: made.append(("s3dis", a, o)))
    monkeypatch.setattr(coco, "download_coco", lambda *a, **o: made.append(("coco", a, o)))
    return made


def test_s3dis(calls: list[Any]) -> None:
    assert main(["s3dis", "--root", "data"]) == 0
    assert calls == [("s3dis", (Path("data"), "pointcept"), {"url": None, "sha256": None})]


def test_s3dis_with_every_option(calls: list[Any]) -> None:
    options = ["--source", "original", "--url", "https://mirror/x.zip", "--sha256", "AB" * 32]
    assert main(["s3dis", "--root", "data", *options]) == 0
    assert calls == [("s3dis", (Path("data"), "original"), {"url": "https://mirror/x.zip", "sha256": "ab" * 32})]


@pytest.mark.parametrize("sha256", ["abc", "g" * 64, "a" * 65])
def test_something_that_is_no_sha256(calls: list[Any], capsys: pytest.CaptureFixture[str], sha256: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["s3dis", "--root", "data", "--sha256", sha256])
    assert caught.value.code == 2
    assert f"argument --sha256: expected 64 hexadecimal digits, got '{sha256}'" in capsys.readouterr().err
    assert calls == []


def test_coco(calls: list[Any]) -> None:
    assert main(["coco", "--root", "data"]) == 0
    assert main(["coco", "--root", "data", "--parts", "val2017", "train2017", "--base-url", "http://mirror"]) == 0
    assert calls == [
        ("coco", (Path("data"), ["val2017"]), {"base_url": "http://images.cocodataset.org"}),
        ("coco", (Path("data"), ["val2017", "train2017"]), {"base_url": "http://mirror"}),
    ]


def test_scannet_is_explained_and_not_downloaded(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scannet"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ScanNet is not downloaded here, because each user has to sign its terms of use")
    for place in ("ROOT/scans/scene0000_00/scene0000_00_vh_clean_2.ply", "scannetv2-labels.combined.tsv"):
        assert place in said.err
    assert said.err.count("\n") == 1
    assert calls == []


@pytest.mark.parametrize("arguments", [[], ["s3dis"], ["coco", "--root", "d", "--parts", "test2017"], ["kitti"]])
def test_wrong_arguments(calls: list[Any], capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m influencerformer.data.download" in capsys.readouterr().err
    assert calls == []


@pytest.mark.parametrize(
    ("command", "facts"),
    [
        ([], ["s3dis", "coco", "scannet", "goes on where it was", "ever replaced"]),
        (["s3dis"], ["Pointcept/s3dis-compressed", "2.0 GB", "8.5 GB", "4.4 GB", "licence of its authors", "--sha256"]),
        (["coco"], ["images.cocodataset.org", "0.8 GB", "19.3 GB", "--parts", "configs/coco"]),
        (["scannet"], ["terms of use"]),
    ],
)
def test_help_names_the_facts(capsys: pytest.CaptureFixture[str], command: list[str], facts: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for fact in facts:
        assert fact in said


def test_a_user_error_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise UserError("this is\n wrong: do that")

    monkeypatch.setattr(s3dis, "download_s3dis", fail)
    assert main(["s3dis", "--root", "data"]) == 2
    assert capsys.readouterr().err == "error: this is wrong: do that\n"


@pytest.mark.parametrize("kept", [True, False])
def test_interrupting_says_that_the_same_command_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(coco, "download_coco", interrupt)
    part = tmp_path / "val2017.zip.part"
    if kept:
        part.write_bytes(bytes(3000))
    assert main(["coco", "--root", str(tmp_path)]) == 130
    start = f"interrupted: {part} keeps 2.9 KiB, " if kept else "interrupted: "
    assert capsys.readouterr().err == f"{start}the same command resumes\n"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536 << 10, "1.5 MiB"),
        (815_585_330, "777.8 MiB"),
        (19_336_861_798, "18.0 GiB"),
        (3 << 40, "3.0 TiB"),
    ],
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert in_words(size) == words


def test_moving_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("new", "link"):
        with pytest.raises(UserError, match=f"{name} exists already and is not replaced: move it away"):
            move(tmp_path / "new", tmp_path / name)
    move(tmp_path / "new", tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == b"new"


def test_an_error_without_words() -> None:
    assert str(cannot_write(Path("a"), OSError("odd"), "b")) == "a cannot be written (odd): b"
