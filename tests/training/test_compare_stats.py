"""The statistics of a comparison, on hand-made records with numbers worked out by hand."""

import math

import pytest

from influencerformer.training.compare_stats import (
    Reach,
    Spread,
    first_reach,
    headline,
    memory_text,
    same_ground,
    spread_text,
    summarise,
    table_header,
    table_rows,
    time_caveats,
    unequal_rest,
)
from influencerformer.training.record import EvalPoint, RunRecord


def run(loss: str, seed: int, aps: list[float], *, every: int = 100, step_seconds: float = 0.5) -> RunRecord:
    """A finished run, evaluated every `every` steps; AP50 is twice AP, a step takes 0.32 s outside the loss."""
    steps = every * len(aps)
    return RunRecord(
        loss=loss,
        seed=seed,
        steps=steps,
        max_steps=steps,
        seconds=steps * step_seconds,
        timed_steps=steps - 1,
        timed_seconds=(steps - 1) * step_seconds,
        criterion_seconds=(steps - 1) * (step_seconds - 0.32),
        evaluations=[
            EvalPoint(every * (i + 1), every * (i + 1) * step_seconds, ap, 2 * ap) for i, ap in enumerate(aps)
        ],
        peak_memory=3 * 2**30,
        finished=True,
    )


BOTH = ("hungarian", "influencer")


@pytest.fixture
def records() -> list[RunRecord]:
    return [
        run("hungarian", 0, [10, 20, 30]),
        run("hungarian", 1, [4, 12, 20]),
        run("hungarian", 2, [10, 20, 31]),
        run("influencer", 0, [20, 40, 36], step_seconds=0.4),
        run("influencer", 1, [16, 24, 26], step_seconds=0.4),
        run("influencer", 2, [10, 20, 30], step_seconds=0.4),
    ]


def test_final_values_and_paired_differences(records: list[RunRecord]) -> None:
    comparison = summarise(reversed(records), BOTH)
    base, ours = comparison["hungarian"], comparison["influencer"]
    assert base.ap.by_seed == {0: 30, 1: 20, 2: 31}
    assert base.ap.mean == pytest.approx(27)
    assert base.ap.sd == pytest.approx(math.sqrt(37))
    assert base.ap_difference is None
    assert ours.ap50.by_seed == {0: 72, 1: 52, 2: 60}
    assert ours.ap_difference is not None
    assert ours.ap_difference.by_seed == {0: 6, 1: 6, 2: -1}
    assert ours.ap_difference.mean == pytest.approx(11 / 3)
    assert ours.ap_difference.sd == pytest.approx(math.sqrt(49 / 3))
    assert ours.ap50_difference is not None
    assert ours.ap50_difference.by_seed == {0: 12, 1: 12, 2: -2}
    assert ours.seeds_won == 2


def test_reach_is_paired_by_seed_and_interpolated(records: list[RunRecord]) -> None:
    ours = summarise(records, BOTH)["influencer"]
    # Seed 0: from 20 at step 100 to 40 at step 200, 30 is half-way; seed 1: 20 is half of 16..24.
    assert ours.reach[0] == Reach(pytest.approx(150), pytest.approx(60))
    assert ours.reach[1] == Reach(pytest.approx(150), pytest.approx(60))
    assert ours.reach[2] is None
    assert ours.seeds_reached == 2
    assert ours.step_ratio.by_seed == pytest.approx({0: 0.5, 1: 0.5})
    assert ours.seconds_ratio.by_seed == pytest.approx({0: 0.4, 1: 0.4})


def test_costs(records: list[RunRecord]) -> None:
    ours = summarise(records, BOTH)["influencer"]
    assert ours.step_seconds.mean == pytest.approx(0.4)
    assert ours.criterion_seconds.mean == pytest.approx(0.08)
    assert ours.peak_memory.by_seed == dict.fromkeys(range(3), 3.0 * 2**30)


@pytest.mark.parametrize(
    ("aps", "target", "expected"),
    [
        ([10, 20], 10, Reach(100, 50)),
        ([12, 20], 10, Reach(100, 50)),
        ([10, 20], 20, Reach(200, 100)),
        ([10, 20], 12.5, Reach(125, 62.5)),
        ([10, 30, 5], 20, Reach(150, 75)),
        ([10, 8, 30], 10, Reach(100, 50)),
        ([10, 20], 20.1, None),
        ([], 1, None),
    ],
)
def test_first_reach(aps: list[float], target: float, expected: Reach | None) -> None:
    assert first_reach(run("x", 0, aps).evaluations, target) == expected


def test_a_baseline_without_ap_gives_no_target() -> None:
    comparison = summarise([run("hungarian", 0, [0, 0]), run("influencer", 0, [0, 5])], BOTH)
    assert comparison["influencer"].reach == {}
    assert "reach" not in headline(comparison)[0]


def test_unfinished_and_unpaired_runs_do_not_count(records: list[RunRecord]) -> None:
    records[0].finished = False
    records[4].evaluations = []
    comparison = summarise(records, BOTH)
    ours = comparison["influencer"]
    assert comparison["hungarian"].seeds == (1, 2)
    assert ours.seeds == (0, 2)
    assert ours.ap.by_seed == {0: 36, 2: 30}
    assert ours.ap_difference == Spread({2: -1})
    assert ours.ap_difference.sd is None


def test_the_first_loss_is_the_baseline(records: list[RunRecord]) -> None:
    comparison = summarise(records, ("influencer", "hungarian"))
    assert comparison.baseline == "influencer"
    difference = comparison["hungarian"].ap_difference
    assert difference is not None
    assert difference.by_seed == {0: -6, 1: -6, 2: 1}


def test_headline_of_a_win(records: list[RunRecord]) -> None:
    assert headline(summarise(records, BOTH)) == [
        "Over 3 seeds the Influencer Loss ends 3.7 AP above Hungarian matching: 30.7 ± 5.0 against "
        "27.0 ± 6.1, ahead in 2 of 3; it reaches the baseline's final AP after 50 % of the steps and 40 % of "
        "the training time (in the 2 of 3 seeds that get there)."
    ]


def test_headline_of_a_loss() -> None:
    pair = [run("hungarian", 0, [10, 30]), run("influencer", 0, [10, 25])]
    assert headline(summarise(pair, BOTH)) == [
        "With the one seed trained, the Influencer Loss ends 5.0 AP below Hungarian matching: 25.0 against "
        "30.0; it does not reach the baseline's final AP."
    ]


def test_headline_of_a_draw_and_of_nothing() -> None:
    pair = [run("hungarian", 0, [10, 30]), run("influencer", 0, [10, 30.04])]
    assert "ends level with Hungarian matching at AP 30.0 against 30.0" in headline(summarise(pair, BOTH))[0]
    assert "nothing to compare" in headline(summarise(pair[1:], BOTH))[0]
    assert "No seed has finished with both" in headline(summarise(pair[:1], BOTH))[0]


def test_times_are_not_compared_where_the_machine_was_not_equally_free(records: list[RunRecord]) -> None:
    # Step 0.213 s, of it the loss 0.046 s, against 0.127 s and 0.020 s: 0.167 s against 0.107 s of equal work.
    for record, step, loss in ((records[0], 0.127, 0.020), (records[3], 0.213, 0.046)):
        record.timed_seconds, record.criterion_seconds = step * record.timed_steps, loss * record.timed_steps
    comparison = summarise([records[0], records[3]], BOTH)
    unequal = unequal_rest(comparison["influencer"], comparison["hungarian"])
    assert unequal == {0: (pytest.approx(0.107), pytest.approx(0.167))}
    assert "50 % of the steps." in headline(comparison)[0]
    assert "time" not in headline(comparison)[0]
    assert "seed 0: 0.167 s against 0.107 s" in time_caveats(comparison)[0]


def test_a_slower_loss_alone_is_no_reason_to_distrust_times(records: list[RunRecord]) -> None:
    for record, loss in ((records[0], 0.02), (records[3], 0.30)):
        record.timed_seconds = (0.1 + loss) * record.timed_steps
        record.criterion_seconds = loss * record.timed_steps
    assert time_caveats(summarise([records[0], records[3]], BOTH)) == []


def test_table(records: list[RunRecord]) -> None:
    rows = table_rows(summarise(records, BOTH))
    assert all(len(row) == len(table_header()) for row in rows)
    assert rows[0] == (
        "Hungarian matching", "3", "27.0 ± 6.1", "54.0 ± 12.2", "baseline", "–",
        "300 (100 %)", "150 s (100 %)", "0.500 ± 0.000", "0.180 ± 0.000", "3.00 GiB",
    )  # fmt: skip
    assert rows[1][4:8] == ("+3.7 ± 4.0", "2 of 3", "150 (50 %, 2 of 3 seeds)", "60 s (40 %, 2 of 3 seeds)")


def test_table_with_failures(records: list[RunRecord]) -> None:
    rows = table_rows(summarise(records[:4], BOTH), [("influencer", 1), ("influencer", 2)])
    assert rows[1][1] == "1 (2 failed)"
    rows = table_rows(summarise(records[:3], BOTH), [("influencer", 0)])
    assert rows[1][:3] == ("Influencer Loss", "0 (1 failed)", "failed")
    assert len(rows[1]) == len(table_header())


def test_not_reached_is_said() -> None:
    rows = table_rows(summarise([run("hungarian", 0, [30]), run("influencer", 0, [20])], BOTH))
    assert rows[1][6:8] == ("not reached", "not reached")


def test_same_ground(records: list[RunRecord]) -> None:
    records[3].init_checksum = 7
    records[4].batch_checksum = 7
    assert same_ground(records) == {0: (False, True), 1: (True, False), 2: (True, True)}


def test_texts() -> None:
    assert spread_text(Spread({0: 1.25}), 2, signed=True) == "+1.25"
    assert spread_text(Spread({})) == "–"
    assert memory_text(700 * 2**20) == "700 MiB"
    assert memory_text(math.nan) == "–"
