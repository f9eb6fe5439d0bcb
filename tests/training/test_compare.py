"""Planning, resuming and failing of a comparison, with runs that only pretend to train."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from influencerformer.errors import UserError
from influencerformer.training import compare, report
from influencerformer.training.compare import Job, SubprocessRunner, error_sentence, locked, main, run_jobs
from influencerformer.training.compare_setup import make_setup, open_setup
from influencerformer.training.record import EvalPoint, LossPoint, RunRecord


class FakeRunner:
    """Writes a finished record instead of training; `fails` maps (loss, seed) to an error's sentence."""

    def __init__(self, fails: dict[tuple[str, int], str] | None = None, silent: bool = False) -> None:
        self.fails = fails or {}
        self.silent = silent
        self.ran: list[tuple[str, int]] = []
        self.options: dict[tuple[str, int], list[str]] = {}

    def __call__(self, job: Job) -> str | None:
        key = (job.loss, job.seed)
        self.ran.append(key)
        self.options[key] = list(job.options)
        if key in self.fails or self.silent:
            return self.fails.get(key)
        bonus = 5.0 if job.loss == "influencer" else 0.0
        RunRecord(
            loss=job.loss,
            seed=job.seed,
            config_digest=job.digest,
            steps=20,
            max_steps=20,
            seconds=8.0,
            timed_steps=19,
            timed_seconds=7.6,
            criterion_seconds=1.9,
            evaluations=[EvalPoint(10, 4.0, 10.0 + bonus, 20.0), EvalPoint(20, 8.0, 20.0 + bonus, 40.0)],
            losses=[LossPoint(10, 4.0, 3.0), LossPoint(20, 8.0, 2.0)],
            peak_memory=2**29,
            finished=True,
            machine="a machine",
            versions={"torch": "2"},
        ).save(job.folder)
        return None

    def stop(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is slow and tested with the report."""
    monkeypatch.setattr(report, "curve_figures", lambda *_: {"ap_per_step": b"PNG"})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text("data: {batch_size: 4}\ntrainer: {max_steps: 20}\n")
    return path


def arguments(config: Path, out: Path, *more: str) -> list[str]:
    return ["--config", str(config), "--out", str(out), *more]


def test_every_loss_and_seed_runs_once_and_results_are_written(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, runner = tmp_path / "out", FakeRunner()
    assert main(arguments(config, out, "--seeds", "0", "3"), runner) == 0
    assert runner.ran == [("hungarian", 0), ("influencer", 0), ("hungarian", 3), ("influencer", 3)]
    printed = capsys.readouterr().out
    assert "Hungarian matching" in printed
    assert "5.0 AP above" in " ".join(printed.split())
    assert len(json.loads((out / "records.json").read_text())) == 4
    assert "| Influencer Loss |" in (out / "table.md").read_text()
    assert (out / "report.html").is_file()
    assert (out / "ap_per_step.png").is_file()


def test_the_runs_differ_in_loss_seed_and_folder_alone(config: Path, tmp_path: Path) -> None:
    runner = FakeRunner()
    main(arguments(config, tmp_path / "out", "--max-steps", "30", "--set", "data.scale=0.5"), runner)
    one, other = runner.options["hungarian", 0], runner.options["influencer", 0]
    assert {a.partition("=")[0] for a, b in zip(one, other, strict=True) if a != b} == {"--model.loss", "--out_dir"}
    assert f"--config={config}" in one
    assert {"--trainer.max_steps=30", "--data.scale=0.5", "--seed_everything=0"} <= set(one)
    assert one.index("--data.scale=0.5") < one.index("--seed_everything=0")


def test_started_again_it_skips_finished_runs_and_takes_up_the_others(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(arguments(config, out), FakeRunner())
    half = RunRecord.load(out / "influencer" / "seed0")
    assert half is not None
    half.finished = False
    half.save(out / "influencer" / "seed0")
    again = FakeRunner()
    assert main(arguments(config, out), again) == 0
    assert again.ran == [("influencer", 0)]
    assert "--resume" in again.options["influencer", 0]


def test_a_comparison_can_grow_by_seeds(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(arguments(config, out, "--seeds", "1"), FakeRunner())
    more = FakeRunner()
    main(arguments(config, out, "--seeds", "0", "--losses", "hungarian"), more)
    assert more.ran == [("hungarian", 0)]
    setup = open_setup(out)
    assert setup.seeds == (0, 1)
    assert setup.losses == ("hungarian", "influencer")


def test_a_failed_run_is_told_and_the_others_go_on(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    runner = FakeRunner({("influencer", 0): "ValueError: the [loss] is not finite at step 7"})
    assert main(arguments(config, out, "--seeds", "0", "1"), runner) == 1
    assert len(runner.ran) == 4
    printed = " ".join(capsys.readouterr().out.split())
    assert "the [loss] is not finite at step 7" in printed
    assert "1 (1 failed)" in printed
    assert "the [loss] is not finite at step 7" in (out / "report.html").read_text()
    again = FakeRunner()
    assert main(arguments(config, out, "--seeds", "0", "1"), again) == 0
    assert again.ran == [("influencer", 0)]
    assert "failed" not in (out / "table.md").read_text()


def test_all_runs_of_a_loss_failed(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(arguments(config, out), FakeRunner({("influencer", 0): "boom"})) == 1
    assert "| failed |" in (out / "table.md").read_text()


def test_a_run_that_ends_without_finishing_has_failed(tmp_path: Path) -> None:
    job = Job("hungarian", 0, tmp_path / "run", "", ())
    failures = run_jobs([job], FakeRunner(silent=True), 1, Console(file=io.StringIO()))
    assert "without finishing" in failures[job]


def test_another_configuration_in_the_same_folder_is_refused(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(arguments(config, out), FakeRunner())
    before = (out / "compare.json").read_text()
    runner = FakeRunner()
    with pytest.raises(UserError, match=r"data.batch_size: there 4, now 8.*choose another --out"):
        main(arguments(config, out, "--set", "data.batch_size=8"), runner)
    with pytest.raises(UserError, match=r"trainer.max_steps: there 20, now 21"):
        main(arguments(config, out, "--max-steps", "21"), runner)
    assert runner.ran == []
    assert (out / "compare.json").read_text() == before


def test_comments_and_restated_values_are_the_same_configuration(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(arguments(config, out), FakeRunner())
    config.write_text("# a comment\ntrainer:\n  max_steps: 20\ndata:\n  batch_size: 4\n")
    runner = FakeRunner()
    assert main(arguments(config, out, "--set", "data.batch_size=4"), runner) == 0
    assert runner.ran == []


def test_report_only_trains_nothing(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(arguments(config, out), FakeRunner())
    (out / "report.html").unlink()
    runner = FakeRunner()
    assert main(["--out", str(out), "--report-only"], runner) == 0
    assert runner.ran == []
    assert (out / "report.html").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "absent.yaml"], "absent.yaml"),
        ([], "--config is missing"),
        (["--config", "{config}", "--seeds", "1", "1"], "--seeds holds a value twice"),
        (["--config", "{config}", "--set", "data.batch_size"], "key=value"),
        (["--config", "{config}", "--set", "model.loss=hungarian"], "compare sets that"),
        (["--config", "{config}", "--jobs", "0"], "at least 1"),
        (["--report-only"], "holds no comparison"),
    ],
)
def test_bad_input_gives_one_sentence(options: list[str], message: str, config: Path, tmp_path: Path) -> None:
    filled = [option.replace("{config}", str(config)) for option in options]
    with pytest.raises(UserError, match=message) as caught:
        main([*filled, "--out", str(tmp_path / "out")], FakeRunner())
    assert "\n" not in str(caught.value)


def test_jobs_run_side_by_side(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=20)

    class Meet(FakeRunner):
        def __call__(self, job: Job) -> str | None:
            meeting.wait()
            return super().__call__(job)

    jobs = [Job(loss, 0, tmp_path / loss, "", ()) for loss in ("a", "b")]
    assert run_jobs(jobs, Meet(), 2, Console(file=io.StringIO())) == {}


def test_sigterm_stops_the_runs_in_progress_and_starts_no_more(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class UntilStopped(FakeRunner):
        stopped = threading.Event()

        def __call__(self, job: Job) -> str | None:
            self.ran.append((job.loss, job.seed))
            os.kill(os.getpid(), signal.SIGTERM)
            assert self.stopped.wait(20)
            return "stopped"

        def stop(self) -> None:
            self.stopped.set()

    runner, before = UntilStopped(), signal.getsignal(signal.SIGTERM)
    assert main(arguments(config, tmp_path / "out", "--seeds", "0", "1"), runner) == 130
    assert runner.ran == [("hungarian", 0)]
    assert "resumes the unfinished runs" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before
    again = FakeRunner()
    assert main(arguments(config, tmp_path / "out", "--seeds", "0", "1"), again) == 0
    assert len(again.ran) == 4


def test_a_second_comparison_in_the_folder_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match="still at work"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_the_folder_stays_locked_while_a_run_is_left_behind(tmp_path: Path) -> None:
    with locked(tmp_path) as hold:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[hold.fileno()])
    with pytest.raises(UserError, match="still at work"), locked(tmp_path):
        pass
    process.communicate(b"\n")
    with locked(tmp_path):
        pass


def test_threads_are_shared_among_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert compare.threads_per_run(2) == 4
    assert compare.threads_per_run(20) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert compare.threads_per_run(2) == 3
    assert compare.threads_per_run(4) == 2


@pytest.mark.parametrize(
    ("log", "code", "expected"),
    [
        ("step 1\nTraceback\n  raise\nfoo.bar.ShapeError: got 3\nexiting\n", 1, "foo.bar.ShapeError: got 3"),
        ("error: the data set is absent\n", 2, "error: the data set is absent"),
        ("step 1\nlast words\n", 1, "last words"),
        ("", 3, "the run ended with exit code 3 and no output"),
        ("step 1\n", -signal.SIGKILL, "the run was ended by SIGKILL (often: out of memory)"),
    ],
)
def test_error_sentence(log: str, code: int, expected: str) -> None:
    assert error_sentence(log, code) == expected


def test_a_crashing_process_leaves_its_sentence_and_log(tmp_path: Path) -> None:
    job = Job("influencer", 0, tmp_path, "", ())
    error = SubprocessRunner(threads=1, entry="json.no_such_tool")(job)
    assert error is not None
    assert "No module named json.no_such_tool" in error
    log = (tmp_path / "log.txt").read_text()
    assert error in log
    assert log.startswith("$ ")


def test_a_stopped_runner_starts_nothing_more(tmp_path: Path) -> None:
    runner = SubprocessRunner(threads=1, entry="json.no_such_tool")
    runner.stop()
    assert runner(Job("influencer", 0, tmp_path, "", ())) == "stopped before it began"


def test_setup_survives_storage(config: Path, tmp_path: Path) -> None:
    setup = make_setup([config], ["a", "b"], [0, 1], ["x=1"], 5, 2, "command")
    setup.store(tmp_path)
    assert open_setup(tmp_path) == setup
    assert open_setup(tmp_path).digest == setup.digest
