"""The whole of `influencerformer compare` on generated rooms: real runs in real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from influencerformer.training.cli import main
from influencerformer.training.record import RunRecord
from influencerformer.training.report import REPORT_FILE


def test_compare_shows_rooms(rooms_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--config", str(rooms_config), "--out", str(out), "--max-steps", "2"])
    assert ended.value.code == 0, "\n".join(path.read_text() for path in out.glob("*/*/log.txt"))
    records = [RunRecord.from_dict(record) for record in json.loads((out / "records.json").read_text())]
    assert [record.loss for record in records] == ["hungarian", "influencer"]
    assert records[0].init_checksum == records[1].init_checksum
    assert records[0].batch_checksum == records[1].batch_checksum
    html = (out / REPORT_FILE).read_text()
    assert "2 of 2 validation point clouds" in html
    assert html.count('alt="Truth, ') == 2
    assert (out / "images.png").stat().st_size > 1000
