"""The whole of `influencerformer compare` on a few drawn scenes: real runs in real processes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from influencerformer.training.cli import main
from influencerformer.training.record import RunRecord
from influencerformer.training.report import REPORT_FILE

CONFIG = """
data:
  format: scenes
  root: {root}
  scenes_train: 12
  scenes_val: 4
  scenes_size: 64
  crop_size: 64
  batch_size: 2
model:
  architecture: mask2former-tiny
  num_queries: 10
  learning_rate: 1.0e-3
"""


def test_compare(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    quiet_trainer: Callable[..., str],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config, out = tmp_path / "base.yaml", tmp_path / "out"
    config.write_text(CONFIG.format(root=tmp_path / "data") + quiet_trainer(2, 4))
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--config", str(config), "--out", str(out)])
    logs = "\n".join(path.read_text() for path in out.glob("*/*/log.txt"))
    assert ended.value.code == 0, logs

    records = {r["loss"]: RunRecord.from_dict(r) for r in json.loads((out / "records.json").read_text())}
    assert records.keys() == {"hungarian", "influencer"}
    one, other = records["hungarian"], records["influencer"]
    assert one.init_checksum == other.init_checksum != 0
    assert one.batch_checksum == other.batch_checksum != 0
    assert one.losses[0].loss != other.losses[0].loss
    for record in records.values():
        assert record.finished
        assert [point.step for point in record.evaluations] == [2, 4]
        assert [point.step for point in record.losses] == [1, 2, 3, 4]
        assert record.losses[0].parts
        assert record.step_seconds is not None
        assert record.criterion_step_seconds is not None
        assert 0 < record.criterion_step_seconds < record.step_seconds
        assert record.peak_memory > 0

    html = (out / REPORT_FILE).read_text()
    assert "4 of 4 validation images" in html
    assert html.count('alt="Truth, ') == 4
    assert not re.search(r"https?://", html)
    assert "With the one seed trained" in " ".join(capsys.readouterr().out.split())
