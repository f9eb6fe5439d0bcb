"""What a set of runs says about their losses: pure functions over `RunRecord`s.

Every number is paired where it can be: a run is compared with the baseline's run of the same seed, which
had the same initial weights and the same batches. With a handful of seeds nothing here is a test of
significance, and nothing is called one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from influencerformer.training.record import AP_VALUES, EvalPoint, RunRecord

REST_TOLERANCE = 0.1
LOSS_TITLES = {
    "hungarian": "Hungarian matching",
    "influencer": "Influencer Loss",
    "stock": "transformers' criterion",
}
VALUE_TITLES = {
    "efficiency": "Efficiency",
    "fake_rate": "Fake rate",
    "duplicate_rate": "Duplicate rate",
    "purity": "Purity",
    "trackml_score": "TrackML score",
}


@dataclass(frozen=True)
class Spread:
    """Values of one quantity by seed, with their mean and sample standard deviation."""

    by_seed: dict[int, float]

    @property
    def values(self) -> list[float]:
        return list(self.by_seed.values())

    @property
    def mean(self) -> float:
        """Mean, NaN without values."""
        return statistics.fmean(self.values) if self.by_seed else math.nan

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (n - 1), None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Reach:
    """Where a curve first reached an AP, interpolated linearly between two evaluations."""

    step: float
    seconds: float


@dataclass(frozen=True)
class LossSummary:
    """One loss over its finished seeds. AP in percent, memory in bytes, times in seconds.

    ap, ap50, others: the final values in the order of `Comparison.values`.
    ap_difference, ap50_difference: minus the baseline's, by seed; None for the baseline itself.
    reach: by seed, where the run reached the baseline's final AP of the same seed (None: not reached);
        only seeds in which the baseline finished too, with an AP above 0.
    step_ratio, seconds_ratio: the reach as a fraction of the baseline's own step and time of its final
        evaluation, for the seeds that reached it.
    """

    loss: str
    seeds: tuple[int, ...]
    ap: Spread
    ap50: Spread
    others: tuple[Spread, ...]
    ap_difference: Spread | None
    ap50_difference: Spread | None
    reach: dict[int, Reach | None]
    step_ratio: Spread
    seconds_ratio: Spread
    step_seconds: Spread
    criterion_seconds: Spread
    peak_memory: Spread

    @property
    def title(self) -> str:
        return loss_title(self.loss)

    @property
    def seeds_won(self) -> int:
        """Seeds in which the final AP is above the baseline's."""
        return sum(d > 0 for d in self.ap_difference.values) if self.ap_difference else 0

    @property
    def seeds_reached(self) -> int:
        return sum(r is not None for r in self.reach.values())


@dataclass(frozen=True)
class Comparison:
    """All losses of a comparison, the baseline first, those without a finished run included.

    values: names of what is compared; losses are judged by the first.
    """

    baseline: str
    summaries: tuple[LossSummary, ...]
    values: tuple[str, ...] = AP_VALUES

    def __getitem__(self, loss: str) -> LossSummary:
        return next(s for s in self.summaries if s.loss == loss)


def loss_title(loss: str) -> str:
    """The name of a loss in prose and tables."""
    return LOSS_TITLES.get(loss, loss)


def value_title(name: str) -> str:
    """The name of a value in tables."""
    return VALUE_TITLES.get(name, name)


def value_words(name: str) -> str:
    """The name of a value within a sentence."""
    return VALUE_TITLES[name][0].lower() + VALUE_TITLES[name][1:] if name in VALUE_TITLES else name


def values_of(records: Iterable[RunRecord]) -> tuple[str, ...]:
    """Names of what runs of one task are judged by."""
    return next((tuple(record.values) for record in records if record.evaluations), AP_VALUES)


def first_reach(curve: Sequence[EvalPoint], target: float) -> Reach | None:
    """Where `curve` first is at or above `target` AP, None if it never is.

    Between the last evaluation below and the first one at or above, linear in step and in seconds; a
    curve whose very first evaluation is there counts from that evaluation, not from an assumed start.
    """
    before: EvalPoint | None = None
    for point in curve:
        if point.ap >= target:
            if before is None or point.ap == before.ap:
                return Reach(float(point.step), point.seconds)
            share = (target - before.ap) / (point.ap - before.ap)
            return Reach(
                before.step + share * (point.step - before.step),
                before.seconds + share * (point.seconds - before.seconds),
            )
        before = point
    return None


def summarise(records: Iterable[RunRecord], losses: Sequence[str]) -> Comparison:
    """Compare the finished runs of several losses; the first of `losses` is the baseline.

    Runs that are unfinished or were never evaluated are left out. Records may come in any order.
    """
    records = list(records)
    runs: dict[str, dict[int, RunRecord]] = {loss: {} for loss in losses}
    for record in records:
        if record.finished and record.evaluations and record.loss in runs:
            runs[record.loss][record.seed] = record
    baseline = runs[losses[0]]
    values = values_of(records)
    return Comparison(
        losses[0],
        tuple(_summary(loss, runs[loss], baseline, losses[0], len(values) - 2) for loss in losses),
        values,
    )


def _summary(
    loss: str, runs: dict[int, RunRecord], baseline: dict[int, RunRecord], baseline_name: str, others: int
) -> LossSummary:
    runs = dict(sorted(runs.items()))
    final = {seed: run.evaluations[-1] for seed, run in runs.items()}
    goal = {seed: baseline[seed].evaluations[-1] for seed in runs if seed in baseline}
    reach = {s: first_reach(runs[s].evaluations, end.ap) for s, end in goal.items() if end.ap > 0}
    is_baseline = loss == baseline_name

    def costs(values: dict[int, float | None]) -> Spread:
        return Spread({seed: value for seed, value in values.items() if value is not None})

    return LossSummary(
        loss=loss,
        seeds=tuple(runs),
        ap=Spread({seed: end.ap for seed, end in final.items()}),
        ap50=Spread({seed: end.ap50 for seed, end in final.items()}),
        others=tuple(Spread({seed: end.others[i] for seed, end in final.items()}) for i in range(others)),
        ap_difference=None if is_baseline else Spread({s: final[s].ap - goal[s].ap for s in goal}),
        ap50_difference=None if is_baseline else Spread({s: final[s].ap50 - goal[s].ap50 for s in goal}),
        reach=reach,
        step_ratio=Spread({s: r.step / goal[s].step for s, r in reach.items() if r and goal[s].step}),
        seconds_ratio=Spread({s: r.seconds / goal[s].seconds for s, r in reach.items() if r and goal[s].seconds}),
        step_seconds=costs({s: run.step_seconds for s, run in runs.items()}),
        criterion_seconds=costs({s: run.criterion_step_seconds for s, run in runs.items()}),
        peak_memory=costs({s: float(run.peak_memory) or None for s, run in runs.items()}),
    )


def same_ground(records: Iterable[RunRecord]) -> dict[int, tuple[bool, bool]]:
    """By seed with at least two finished runs: (same initial weights, same batches), by their checksums."""
    by_seed: dict[int, list[RunRecord]] = {}
    for record in records:
        if record.finished:
            by_seed.setdefault(record.seed, []).append(record)
    return {
        seed: (
            len({r.init_checksum for r in runs}) == 1,
            len({r.batch_checksum for r in runs}) == 1,
        )
        for seed, runs in sorted(by_seed.items())
        if len(runs) > 1
    }


def unequal_rest(summary: LossSummary, base: LossSummary) -> dict[int, tuple[float, float]]:
    """Seeds whose times cannot be compared, with (the baseline's, this loss's) seconds of a step outside the loss.

    Outside the loss both runs do the same work. Where that took clearly longer in one of them, the machine was
    not equally free (or the loss has costs that its timer misses), and differences in time mean little.
    """
    unequal = {}
    for seed in summary.criterion_seconds.by_seed.keys() & base.criterion_seconds.by_seed.keys():
        theirs, own = (s.step_seconds.by_seed[seed] - s.criterion_seconds.by_seed[seed] for s in (base, summary))
        if abs(own - theirs) > REST_TOLERANCE * min(own, theirs):
            unequal[seed] = (theirs, own)
    return dict(sorted(unequal.items()))


def time_caveats(comparison: Comparison) -> list[str]:
    """One sentence for each loss whose times cannot be compared with the baseline's."""
    base = comparison[comparison.baseline]
    sentences = []
    for summary in comparison.summaries:
        unequal = unequal_rest(summary, base)
        if unequal:
            cases = "; ".join(
                f"seed {seed}: {own:.3f} s against {theirs:.3f} s" for seed, (theirs, own) in unequal.items()
            )
            sentences.append(
                f"Times of {summary.title} and {base.title} cannot be compared: the part of a step outside the loss, "
                f"the same work in both, took different times ({cases}), so the machine was not equally free."
            )
    return sentences


def headline(comparison: Comparison) -> list[str]:
    """One sentence for each loss compared with the baseline, whichever way the numbers point."""
    base = comparison[comparison.baseline]
    if not base.seeds:
        return [f"No run of the baseline ({base.title}) has finished: there is nothing to compare with yet."]
    name = comparison.values[0]
    return [_sentence(s, base, name) for s in comparison.summaries if s.loss != comparison.baseline]


def _sentence(summary: LossSummary, base: LossSummary, value: str) -> str:
    difference = summary.ap_difference
    if difference is None or not difference.by_seed:
        return f"No seed has finished with both {summary.title} and {base.title} yet."
    seeds = difference.by_seed
    n = len(seeds)
    own = Spread({s: summary.ap.by_seed[s] for s in seeds})
    theirs = Spread({s: base.ap.by_seed[s] for s in seeds})
    name = value_words(value)
    points = f"points of {name}" if value in VALUE_TITLES else name
    if abs(difference.mean) < 0.05:
        verdict = f"ends level with {base.title} at {name} {spread_text(own)} against {spread_text(theirs)}"
    else:
        side = "above" if difference.mean > 0 else "below"
        verdict = (
            f"ends {abs(difference.mean):.1f} {points} {side} {base.title}: "
            f"{spread_text(own)} against {spread_text(theirs)}"
        )
    if n == 1:
        text = f"With the one seed trained, the {summary.title} {verdict}"
    else:
        text = f"Over {n} seeds the {summary.title} {verdict}, ahead in {summary.seeds_won} of {n}"
    if summary.seeds_reached:
        got_there = f" (in the {summary.seeds_reached} of {n} seeds that get there)"
        text += (
            f"; it reaches the baseline's final {name} after {_percent(summary.step_ratio.mean)} of the steps"
            + (
                ""
                if unequal_rest(summary, base)
                else f" and {_percent(summary.seconds_ratio.mean)} of the training time"
            )
            + (got_there if summary.seeds_reached < n else "")
        )
    elif summary.reach:
        text += f"; it does not reach the baseline's final {name}"
    return text.replace("the Hungarian matching", "Hungarian matching") + "."


def spread_text(spread: Spread | None, digits: int = 1, signed: bool = False) -> str:
    """Mean and deviation such as "31.2 ± 0.8"; the mean alone for one value, "–" for none."""
    if spread is None or not spread.by_seed or math.isnan(spread.mean):
        return "–"
    text = f"{spread.mean:{'+' if signed else ''}.{digits}f}"
    return text if spread.sd is None else f"{text} ± {spread.sd:.{digits}f}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def table_header(values: Sequence[str] = AP_VALUES) -> tuple[str, ...]:
    """What the entries of a row of `table_rows` are."""
    name = value_words(values[0])
    return (
        "Loss",
        "Seeds",
        *map(value_title, values),
        f"Δ {name} (paired)",
        "Seeds ahead",
        f"Steps to baseline's {name}",
        f"Time to baseline's {name}",
        "Seconds a step",
        "of it the loss",
        "Peak memory",
    )


def table_rows(comparison: Comparison, failed: Iterable[tuple[str, int]] = ()) -> list[tuple[str, ...]]:
    """The rows under `table_header`, as text: for the terminal, Markdown and HTML alike."""
    failed = list(failed)
    width = len(table_header(comparison.values))
    return [_row(s, sum(loss == s.loss for loss, _ in failed), width) for s in comparison.summaries]


def _row(summary: LossSummary, failures: int, width: int) -> tuple[str, ...]:
    seeds = str(len(summary.seeds)) + (f" ({failures} failed)" if failures else "")
    if not summary.seeds:
        return (summary.title, seeds, "failed" if failures else "–", *["–"] * (width - 3))
    difference, n = summary.ap_difference, len(summary.reach)
    reached = [r for r in summary.reach.values() if r is not None]
    steps = seconds = "not reached" if n else "–"
    if reached:
        suffix = "" if len(reached) == n else f", {len(reached)} of {n} seeds"
        mean_step = statistics.fmean(r.step for r in reached)
        mean_seconds = statistics.fmean(r.seconds for r in reached)
        steps = f"{mean_step:.0f} ({_percent(summary.step_ratio.mean)}{suffix})"
        seconds = f"{mean_seconds:.0f} s ({_percent(summary.seconds_ratio.mean)}{suffix})"
    return (
        summary.title,
        seeds,
        spread_text(summary.ap),
        spread_text(summary.ap50),
        *map(spread_text, summary.others),
        "baseline" if difference is None else spread_text(difference, signed=True),
        "–" if difference is None else f"{summary.seeds_won} of {len(difference.by_seed)}",
        steps,
        seconds,
        spread_text(summary.step_seconds, 3),
        spread_text(summary.criterion_seconds, 3),
        memory_text(summary.peak_memory.mean),
    )


def memory_text(value: float) -> str:
    """Bytes as MiB or GiB."""
    if math.isnan(value):
        return "–"
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
