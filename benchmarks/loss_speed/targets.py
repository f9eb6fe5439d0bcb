"""What is asked of the speed of the loss, beside what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loss_speed.contenders import DENSE, ORIGINAL, OURS, TRANSFORMERS, points
from loss_speed.shapes import SHAPES

SCIPY = f"{DENSE}, scipy"


@dataclass(frozen=True)
class Target:
    """One line of the check list; ``found`` is None where it was not measured."""

    text: str
    asked: float
    at_least: bool
    found: float | None

    @property
    def met(self) -> bool | None:
        """None where it was not measured."""
        if self.found is None:
            return None
        return self.found >= self.asked if self.at_least else self.found <= self.asked


def check_list(results: dict[str, Any]) -> list[Target]:
    """All targets, from the content of results.json."""
    shapes, sweeps = results["shapes"], results["sweeps"]

    def value(shape: str, row: str, key: str) -> float | None:
        return shapes.get(shape, {}).get("rows", {}).get(row, {}).get(key)

    def ratio(shape: str, slow: str, fast: str, key: str = "median_s") -> float | None:
        above, below = value(shape, slow, key), value(shape, fast, key)
        return above / below if above is not None and below else None

    def over(found: float | None, whole: float | None) -> float | None:
        return found / whole if found is not None and whole else None

    n = SHAPES["coco"].sampled
    stock = points(TRANSFORMERS, n)
    targets = [
        Target(f"COCO: transformers / ours, both {n} points, time", 2, True, ratio("coco", stock, points(OURS, n))),
        Target(f"COCO: transformers with {n} points / ours on all, time", 1, True, ratio("coco", stock, OURS)),
    ]
    for name in ("s3dis", "s3dis-30k", "scannet"):
        title = SHAPES[name].title
        targets.append(Target(f"{title}: InstanceCriterion / ours, time", 3, True, ratio(name, ORIGINAL, OURS)))
    targets += [
        Target("tracking: dense Hungarian / ours, time", 12, True, ratio("tracking", SCIPY, OURS)),
        Target(
            "tracking: ours / dense Hungarian, peak memory", 0.25, False, ratio("tracking", OURS, SCIPY, "peak_bytes")
        ),
    ]
    medians = sweeps.get("K", {}).get("median_s", {}).get(OURS, {})
    growth = over(medians.get("1500"), medians.get("100"))
    targets.append(Target("tracking: ours, time at K = 1500 / K = 100", 1.5, False, growth))
    for name, shape in SHAPES.items():
        if name == "tiny":
            continue
        memory = over(value(name, OURS, "peak_bytes"), shape.logits_bytes)
        targets.append(Target(f"{shape.title}: ours, peak memory / logits", 1.5, False, memory))
    copies = over(value("dense", OURS, "median_s"), shapes.get("dense", {}).get("floor", {}).get("median_s"))
    targets += [
        Target("dense: ours / one copy of the logits, time", 12, False, copies),
        Target("training step: transformers / ours, time", 1.3, True, ratio("step", TRANSFORMERS, OURS)),
    ]
    return targets
