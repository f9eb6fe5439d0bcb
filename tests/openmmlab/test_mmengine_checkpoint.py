"""What mmengine writes beside the weights is read without running what a file asks for."""

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")
from mmengine.config import ConfigDict
from mmengine.logging.history_buffer import HistoryBuffer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from oneformer3d_checkpoint import CheckpointError, loadable_checkpoint


class Attribute:
    def __init__(self, owner: object, name: str) -> None:
        self.call = getattr, (owner, name)

    def __reduce__(self) -> object:
        return self.call


def test_logs_and_options_are_kept(tmp_path: Path) -> None:
    losses = HistoryBuffer()
    for value in (1.0, 2.0, 4.0):
        losses.update(value)
    state = OrderedDict({"unet.conv.weight": torch.rand(3, 3, 3, 6, 8)})
    state._metadata = OrderedDict({"unet.conv": {"version": 2}})
    saved = {
        "meta": {"seed": np.int64(3), "palette": ConfigDict(wall=[1, 2, 3])},
        "message_hub": {"log_scalars": {"loss": losses}, "runtime_info": {"x": np.float32(2)}},
        "state_dict": state,
    }
    torch.save(saved, tmp_path / "a.pth")
    path = loadable_checkpoint(tmp_path / "a.pth", tmp_path)
    assert path.name == "a_spconv.pth"
    copy = torch.load(path, weights_only=False)
    assert copy["message_hub"]["log_scalars"]["loss"].mean(2) == 3.0
    assert copy["message_hub"]["runtime_info"]["x"] == 2
    assert copy["meta"] == saved["meta"]


@pytest.mark.parametrize(
    ("owner", "name"), [(HistoryBuffer, "__init__"), (HistoryBuffer, "__globals__"), (dict, "get")]
)
def test_other_attributes_are_refused(tmp_path: Path, owner: object, name: str) -> None:
    torch.save({"state_dict": {}, "x": Attribute(owner, name)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="without running what it holds"):
        loadable_checkpoint(tmp_path / "a.pth", tmp_path)
