"""The benchmark of the losses: its measuring, its rival, its tables, and a tiny run of the whole command."""

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from influencerformer.losses import hungarian_mask_loss

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_whole_command_measures_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from loss_speed.shapes import SHAPES, Shape

    small = Shape("tiny", (8, 8), 8**2, 3, 1, 2, image=True, sampled=32)
    monkeypatch.setitem(SHAPES, "tiny", small)
    arguments = ["loss_speed.py", "--shapes", "tiny", "--repeats", "1", "--no-sweeps", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(BENCHMARKS / "loss_speed.py"), run_name="__main__")
    shown = capsys.readouterr().out
    table = (tmp_path / "table.md").read_text()
    assert table in shown
    for name in ("Influencer, 32 points", "Hungarian (ours)", "transformers, 32 points", "dense Hungarian, scipy"):
        assert f"| {name} |" in table
    assert "| tracking: dense Hungarian / ours, time | not measured | ≥ 12 |  |" in table
    assert (tmp_path / "loss_speed.png").stat().st_size > 10_000
    tiny = json.loads((tmp_path / "results.json").read_text())["shapes"]["tiny"]
    assert tiny["logits_bytes"] == 4 * 2 * 2 * 8 * 8**2
    for row in tiny["rows"].values():
        assert len(row["seconds"]) == 1
        assert row["median_s"] > tiny["floor"]["median_s"] > 0
        # at least the gradient of one head
        assert row["peak_bytes"] >= tiny["logits_bytes"] / 2


def test_figures_of_another_machine_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"environment": {"torch": "1.0", "device": "abacus", "threads": 9}, "shapes": {}, "sweeps": {}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    monkeypatch.setattr(sys, "argv", ["loss_speed.py", "--shapes", "tiny", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"abacus.*give another --out"):
        runpy.run_path(str(BENCHMARKS / "loss_speed.py"), run_name="__main__")


def test_the_dense_rival_is_the_same_loss() -> None:
    from loss_speed.dense_hungarian import dense_hungarian_loss, scipy_matcher
    from loss_speed.shapes import Problem, Shape

    torch.manual_seed(0)
    for image in (True, False):
        problem = Problem(Shape("", (7, 7), 64, 5, 3, 2, image=image), "cpu")
        masks = [layer.flatten(2) for layer in problem.masks] if image else problem.masks
        truths = [problem.instance_masks(i).flatten(1) for i in range(2)]
        found = dense_hungarian_loss(masks, problem.classes, truths, problem.class_labels, scipy_matcher)
        labels = [labels.flatten() for labels in problem.labels]
        expected = hungarian_mask_loss(masks, labels, problem.classes, problem.class_labels)["loss"]
        torch.testing.assert_close(found, expected)


def test_all_matchers_find_the_least_cost() -> None:
    from loss_speed.dense_hungarian import matchers, scipy_matcher

    for shape in ((9, 6), (4, 6)):
        cost = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        least = cost[scipy_matcher(cost)].sum()
        for match in matchers("cpu")[0].values():
            rows, columns = match(cost)
            assert len(rows) == len(set(rows.tolist())) == len(set(columns.tolist())) == min(shape)
            torch.testing.assert_close(cost[rows, columns].sum(), least)


def test_every_instance_is_visible() -> None:
    from loss_speed.shapes import blobs, shuffled

    for labels in (blobs(16, 20), shuffled(400, 30, 0.5)):
        assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    # a blob's cell mostly has its own label to the right of it, a shuffled one does not
    spatial = blobs(32, 20)
    assert (spatial[:, 1:] == spatial[:, :-1]).float().mean() > 0.5


def test_memory_is_the_peak_not_what_is_left() -> None:
    from loss_speed.measure import peak_bytes

    def run() -> None:
        for _ in range(3):
            torch.empty(1000, dtype=torch.float32)
        torch.empty(500, dtype=torch.float32)

    assert 4000 <= peak_bytes("cpu", run) < 8000


def test_runs_take_turns_and_long_ones_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    from loss_speed import measure

    order: list[str] = []

    def seconds(device: str, threads: int, run: Callable[[], None]) -> float:
        run()
        return {"slow": 15.0, "fast": 1.0}[order[-1]]

    monkeypatch.setattr(measure, "seconds", seconds)
    runs = {name: lambda name=name: order.append(name) for name in ("fast", "slow")}
    times = measure.alternating(runs, 5, "cpu", 1, lambda what: None)
    assert times == {"fast": [1.0] * 5, "slow": [15.0] * 3}
    assert order == ["fast", "slow"] * 4 + ["fast"] * 2


def test_exponents_of_power_laws() -> None:
    from loss_speed.sweeps import exponents

    medians = {"square": {"10": 3.0, "100": 300.0, "1000": 30000.0}, "flat": {"10": 2.0, "1000": 2.0}}
    assert exponents(medians) == pytest.approx({"square": 2.0, "flat": 0.0})


def planted(**rows: dict[str, float]) -> dict[str, Any]:
    return {name: {"median_s": row["s"], "peak_bytes": row.get("bytes", 0)} for name, row in rows.items()}


def test_the_check_list_compares_what_was_asked() -> None:
    from loss_speed.targets import check_list

    coco = planted(**{
        "Influencer": {"s": 0.8},
        "Influencer, 12544 points": {"s": 0.5},
        "transformers, 12544 points": {"s": 0.75},
    })  # fmt: skip
    tracking = planted(**{"Influencer": {"s": 1.0, "bytes": 10}, "dense Hungarian, scipy": {"s": 24.0, "bytes": 50}})
    dense = {"rows": planted(Influencer={"s": 1.0}), "floor": {"median_s": 0.125}, "title": ""}
    results = {
        "shapes": {"coco": {"rows": coco}, "tracking": {"rows": tracking}, "dense": dense},
        "sweeps": {"K": {"median_s": {"Influencer": {"100": 2.0, "1500": 3.0}}}},
    }
    found = {target.text: (target.found, target.met) for target in check_list(results)}
    assert found["COCO: transformers / ours, both 12544 points, time"] == (1.5, False)
    assert found["COCO: transformers with 12544 points / ours on all, time"] == (pytest.approx(0.9375), False)
    assert found["tracking: dense Hungarian / ours, time"] == (24.0, True)
    assert found["tracking: ours / dense Hungarian, peak memory"] == (0.2, True)
    assert found["tracking: ours, time at K = 1500 / K = 100"] == (1.5, True)
    assert found["dense: ours / one copy of the logits, time"] == (8.0, True)
    assert found["ScanNet: InstanceCriterion / ours, time"] == (None, None)
