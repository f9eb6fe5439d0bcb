"""The report of a comparison: one HTML file that needs nothing else, and its pieces for other documents.

Beside `report.html` lie `table.md`, `records.json` (all runs), the curves and the validation images as PNG files.
"""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment

from influencerformer.training.compare_setup import Setup
from influencerformer.training.compare_stats import (
    Comparison,
    headline,
    loss_title,
    memory_text,
    same_ground,
    summarise,
    table_header,
    table_rows,
    time_caveats,
    value_title,
    value_words,
)
from influencerformer.training.record import AP_VALUES, RunRecord, write_json
from influencerformer.training.report_examples import validation_examples
from influencerformer.training.report_images import ImageRow, sheet
from influencerformer.training.report_plots import DARK, LIGHT, curve_figures, curve_texts

REPORT_FILE = "report.html"
DEFINITIONS = (
    "± is the sample standard deviation over seeds. Δ {value} is the mean over seeds of the difference to the "
    "baseline's run of the same seed. Steps and time to the baseline's {value}: where a run first reaches the "
    "final {value} of the baseline's run of the same seed, interpolated linearly between two evaluations, also in "
    "percent of what the baseline took to its final evaluation; means over the seeds that reach it. Time is "
    "that of training steps (forward, loss, backward, optimiser), without data loading, validation and "
    "checkpoints. Peak memory is "
)
MEMORY_TEXTS = {
    "gpu": "the most the GPU had allocated in training steps.",
    "process": "the run's largest resident set, libraries and validation included.",
}


def run_header(values: Sequence[str] = AP_VALUES) -> tuple[str, ...]:
    """What the entries are of a row of the table of single runs."""
    name = value_words(values[0])
    return (
        "Run",
        "State",
        *map(value_title, values),
        f"Δ {name}",
        f"Steps to baseline's {name}",
        "Time to it",
        "Seconds a step",
        "of it the loss",
        "Peak memory",
        "Training",
    )


def write_report(
    out: Path,
    setup: Setup,
    records: Sequence[RunRecord],
    failures: Mapping[tuple[str, int], str],
    images: Sequence[ImageRow] | None = None,
) -> Path:
    """Write report.html, table.md, records.json and the curves into `out`.

    Args:
        out: folder of the comparison.
        setup: what its runs share.
        records: of all runs that have begun.
        failures: error sentences of the failed runs, by loss and seed.
        images: overlays of validation images; made from the checkpoints in `out` unless given.

    Returns:
        the path of report.html.
    """
    comparison = summarise(records, setup.losses)
    rows = table_rows(comparison, failures)
    texts = curve_texts(comparison.values)
    light = curve_figures(records, setup.losses, LIGHT)
    dark = curve_figures(records, setup.losses, DARK)
    for stem, png in light.items():
        (out / f"{stem}.png").write_bytes(png)
    caveats = "".join(f"\n{sentence}\n" for sentence in time_caveats(comparison))
    (out / "table.md").write_text(markdown_table(rows, table_header(comparison.values)) + caveats)
    write_json(out / "records.json", [asdict(record) for record in records])
    images_note = ""
    if images is None:
        images, images_note = validation_examples(out, setup, records)
    if images:
        (out / "images.png").write_bytes(sheet(images))
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        files("influencerformer.training").joinpath("report.html").read_text(encoding="utf-8")
    )
    html = template.render(
        title=f"{' and '.join(loss_title(loss) for loss in setup.losses)}, side by side",
        headline=headline(comparison),
        reading=_reading(comparison, setup),
        warnings=_warnings(comparison, setup, records, failures),
        header=table_header(comparison.values),
        rows=rows,
        definitions=DEFINITIONS.format(value=value_words(comparison.values[0]))
        + MEMORY_TEXTS[records[0].memory_kind if records else "process"],
        figures=[
            {"alt": texts[stem], "light": data_uri(png), "dark": data_uri(dark[stem])} for stem, png in light.items()
        ],
        images=[
            {"name": row.name, "panels": [{"title": t, "src": data_uri(png)} for t, png in row.panels]}
            for row in images
        ],
        images_note=images_note,
        run_header=run_header(comparison.values),
        run_rows=_run_rows(comparison, setup, records, failures),
        failures=[f"{loss_title(loss)}, seed {seed}: {text}" for (loss, seed), text in failures.items()],
        command=setup.command,
        facts=_facts(setup, records),
        configs=[
            (path, yaml.safe_dump(content, sort_keys=False))
            for path, content in zip(setup.configs, setup.contents, strict=True)
        ],
    )
    path = out / REPORT_FILE
    path.write_text(html, encoding="utf-8", errors="replace")  # names of files need not be text
    return path


def markdown_table(rows: Sequence[Sequence[str]], header: Sequence[str] = table_header()) -> str:
    """The result as a Markdown table, one column a loss, with the header's entries before its lines."""
    lines = ["| | " + " | ".join(row[0] for row in rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for index, label in enumerate(header[1:], start=1):
        lines.append(f"| {label} | " + " | ".join(row[index] for row in rows) + " |")
    return "\n".join(lines) + "\n"


def data_uri(png: bytes) -> str:
    """A PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _reading(comparison: Comparison, setup: Setup) -> str:
    pairs = min(len(s.reach) if s.reach else len(s.seeds) for s in comparison.summaries)
    if pairs < 2:
        return "One seed is an example, not a result: two runs of the same loss can differ as much."
    return f"{pairs} seeds show a tendency and its spread, they prove nothing: read the single seeds below too."


def _warnings(
    comparison: Comparison,
    setup: Setup,
    records: Sequence[RunRecord],
    failures: Mapping[tuple[str, int], str],
) -> list[str]:
    """What a reader must know before trusting the table."""
    warnings = time_caveats(comparison)
    total = len(setup.losses) * len(setup.seeds)
    finished = sum(r.finished for r in records)
    if finished < total:
        failed = f", {len(failures)} failed" if failures else ""
        warnings.append(f"{finished} of {total} runs have finished{failed}; the numbers cover only those.")
    ground = same_ground(records)
    for what, index in (("initial weights", 0), ("batches", 1)):
        bad = [str(seed) for seed, same in ground.items() if not same[index]]
        if bad:
            resumed = sorted({r.seed for r in records if r.resumed_at})
            because = f" (resumed runs: seed {', '.join(map(str, resumed))})" if index and resumed else ""
            warnings.append(f"The runs of seed {', '.join(bad)} did not have the same {what}{because}.")
    late = [r for r in records if r.finished and r.evaluations and r.evaluations[-1].step < r.steps]
    if late:
        warnings.append(
            f"The last evaluation was at step {late[0].evaluations[-1].step} of {late[0].steps}: the final "
            f"{value_words(comparison.values[0])} is that one's."
        )
    if setup.jobs > 1:
        warnings.append(
            f"Up to {setup.jobs} runs shared the machine, so their seconds are longer than a run alone "
            "would take and vary more."
        )
    return warnings


def _run_rows(
    comparison: Comparison,
    setup: Setup,
    records: Sequence[RunRecord],
    failures: Mapping[tuple[str, int], str],
) -> list[list[str]]:
    runs = {(r.loss, r.seed): r for r in records}
    table = []
    for seed in setup.seeds:
        for loss in setup.losses:
            run, summary = runs.get((loss, seed)), comparison[loss]
            name = f"seed {seed}, {loss_title(loss)}"
            if run is None or not run.finished:
                state = "failed" if (loss, seed) in failures else "not finished" if run else "not begun"
                table.append([name, state, *["–"] * (len(run_header(comparison.values)) - 2)])
                continue
            reach = summary.reach.get(seed)
            missing = "not reached" if seed in summary.reach else "–"
            difference = summary.ap_difference
            resumed = f", resumed at {', '.join(map(str, run.resumed_at))}" if run.resumed_at else ""
            table.append(
                [
                    name,
                    "finished" + resumed,
                    _number(summary.ap.by_seed.get(seed), 1),
                    _number(summary.ap50.by_seed.get(seed), 1),
                    *(_number(other.by_seed.get(seed), 1) for other in summary.others),
                    "baseline" if difference is None else _number(difference.by_seed.get(seed), 1, sign=True),
                    missing if reach is None else f"{reach.step:.0f}",
                    missing if reach is None else f"{reach.seconds:.0f} s",
                    _number(run.step_seconds, 3),
                    _number(run.criterion_step_seconds, 3),
                    memory_text(float(run.peak_memory)) if run.peak_memory else "–",
                    f"{run.steps} steps, {run.seconds:.0f} s",
                ]
            )
    return table


def _facts(setup: Setup, records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    facts = [
        ("Seeds", ", ".join(map(str, setup.seeds))),
        ("Losses", ", ".join(f"{loss_title(loss)} ({loss})" for loss in setup.losses)),
        ("Runs side by side", str(setup.jobs)),
        ("Configuration digest", setup.digest),
    ]
    if setup.overrides:
        facts.append(("Options on top", "; ".join(setup.overrides)))
    if records:
        facts += [
            ("Steps", ", ".join(sorted({str(r.max_steps) for r in records}))),
            ("Parameters", f"{statistics.median(r.parameters for r in records):,.0f}"),
            ("Machine", "; ".join(dict.fromkeys(r.machine for r in records))),
            ("Versions", "; ".join(dict.fromkeys(_versions(r.versions) for r in records))),
        ]
    ground = same_ground(records)
    if ground and all(weights and batches for weights, batches in ground.values()):
        facts.append(("Same ground", "checksums: in every seed all losses had the same initial weights and batches"))
    return facts


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _number(value: Any, digits: int, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"
