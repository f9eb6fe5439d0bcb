"""results.json as a table, a check list and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loss_speed.contenders import BASELINE, DENSE, ORIGINAL, OURS, TRANSFORMERS, reference
from loss_speed.targets import check_list

MIB = 2**20
COLOURS = {OURS: "C0", BASELINE: "C2", TRANSFORMERS: "C1", ORIGINAL: "C4", DENSE: "C3"}


def _times(row: dict[str, Any]) -> str:
    low, high = min(row["seconds"]), max(row["seconds"])
    return f"{1e3 * row['median_s']:.1f} ({1e3 * low:.1f}-{1e3 * high:.1f})"


def _factor(value: float, unit: float | None) -> str:
    return "" if not unit else f"{value / unit:.2f}"


def table(results: dict[str, Any]) -> str:
    """Markdown: every shape's contenders, what is absent and why, exponents of the sweeps, the check list."""
    lines = [
        ", ".join(f"{name} {value}" for name, value in results["environment"].items()),
        "",
        "| shape | criterion | ms (min-max) | / ours | peak MiB | / logits | / copy |",
        "|---|---|---|---|---|---|---|",
    ]
    absent: dict[str, list[str]] = {}
    for shape in results["shapes"].values():
        rows, floor, logits = shape["rows"], shape.get("floor"), shape.get("logits_bytes")
        title = shape["title"]
        for name, row in rows.items():
            ours = rows[reference(name, rows)]
            copies = _factor(row["median_s"], floor and floor["median_s"])
            lines.append(
                f"| {title} | {name} | {_times(row)} | {row['median_s'] / ours['median_s']:.2f} "
                f"| {row['peak_bytes'] / MIB:.0f} | {_factor(row['peak_bytes'], logits)} | {copies} |"
            )
            title = ""
        if floor:
            lines.append(f"| | one copy of the logits | {_times(floor)} | | {logits / MIB:.0f} | | 1.00 |")
        for name, reason in shape["absent"].items():
            absent.setdefault(f"{name}: {reason}", []).append(shape["title"])
    lines += ["", *(f"Absent: {what} ({', '.join(where)})." for what, where in absent.items())]
    if results["sweeps"]:
        lines += ["", "| time ~ value ** p | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
        for variable, sweep in results["sweeps"].items():
            found = [f"{sweep['exponents'][name]:.2f}" if name in sweep["exponents"] else "" for name in COLUMNS]
            lines.append(f"| {variable} | {' | '.join(found)} |")
    lines += ["", "| asked | found | wanted | met |", "|---|---|---|---|"]
    for target in check_list(results):
        found = "not measured" if target.found is None else f"{target.found:.2f}"
        met = {None: "", True: "yes", False: "**no**"}[target.met]
        lines.append(f"| {target.text} | {found} | {'≥' if target.at_least else '≤'} {target.asked:g} | {met} |")
    return "\n".join(lines) + "\n"


COLUMNS = (OURS, f"{DENSE}, scipy")


def _colour(name: str) -> str:
    return next(colour for family, colour in COLOURS.items() if name.startswith(family))


def draw(results: dict[str, Any], path: Path) -> None:
    """Times and memory of all contenders above, sweeps below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sweeps = results["sweeps"]
    figure = plt.figure(figsize=(13, 9 if sweeps else 5), layout="constrained")
    upper, *lower = figure.subfigures(2 if sweeps else 1, 1, squeeze=False)[:, 0]
    panels = upper.subplots(1, 2, sharey=True)
    shapes = list(results["shapes"].values())
    for panel, key, label in (
        (panels[0], "median_s", "time / ours on the same pixels (squares: sampled)"),
        (panels[1], "peak_bytes", "peak extra memory / ours on the same pixels (squares: sampled)"),
    ):
        for height, shape in enumerate(shapes):
            for name, row in shape["rows"].items():
                if name == reference(name, shape["rows"]):
                    continue
                ratio = row[key] / shape["rows"][reference(name, shape["rows"])][key]
                marker = "o" if ", " not in name or name.startswith(DENSE) else "s"
                panel.plot(ratio, height, marker, color=_colour(name), markersize=8, alpha=0.8)
        panel.axvline(1, color=COLOURS[OURS])
        panel.set_xscale("log")
        panel.set_xlabel(label)
        panel.grid(axis="x", which="both", alpha=0.3)
    panels[0].set_yticks(range(len(shapes)), [shape["title"] for shape in shapes])
    panels[0].invert_yaxis()
    families = [
        plt.Line2D([], [], marker="o", linestyle="", color=colour, label=family) for family, colour in COLOURS.items()
    ]
    upper.legend(handles=families, loc="outside upper center", ncols=len(COLOURS))
    for subfigure in lower:
        panels_below = subfigure.subplots(1, len(sweeps), squeeze=False)[0]
        for panel, (variable, sweep) in zip(panels_below, sweeps.items(), strict=True):
            for name, medians in sweep["median_s"].items():
                label = f"{name}: ~{variable}$^{{{sweep['exponents'].get(name, float('nan')):.2f}}}$"
                values = [int(value) for value in medians]
                panel.loglog(values, list(medians.values()), "o-", color=_colour(name), label=label)
            panel.set_xlabel(variable)
            panel.set_ylabel("seconds, forward and backward")
            panel.grid(which="both", alpha=0.3)
            panel.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
