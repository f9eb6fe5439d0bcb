"""`influencerformer compare`: one training a loss and seed, everything else equal, then a table and a report.

Every run is `influencerformer fit` in a process of its own, with the same configuration, seed, batches and
budget and only the loss exchanged: a crash stays in its run, and peak memory is the run's own. Started
again, it skips finished runs and resumes the others from their last checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from influencerformer.errors import UserError
from influencerformer.training.compare_setup import Setup, make_setup, open_setup, run_folder
from influencerformer.training.compare_stats import (
    headline,
    loss_title,
    summarise,
    table_header,
    table_rows,
    time_caveats,
    value_words,
)
from influencerformer.training.record import RunRecord

LOG_FILE = "log.txt"
ERROR_FILE = "error.txt"
ERROR_LINE = re.compile(r"^(?:error: |(?:\w+\.)*\w*(?:Error|Exception|Exit)(?::\s|$))")


@dataclass(frozen=True)
class Job:
    """One training run: loss, seed, the folder it fills, the digest of what it shares with the others, and the
    options `fit` gets."""

    loss: str
    seed: int
    folder: Path
    digest: str
    options: tuple[str, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return f"{loss_title(self.loss)}, seed {self.seed}"


class Runner(Protocol):
    """What does the runs of a comparison; used from several threads."""

    def __call__(self, job: Job) -> str | None:
        """Run one job to its end; returns None, or the sentence of its error."""

    def stop(self) -> None:
        """Make the jobs in progress end soon and start no more."""


def plan_jobs(out: Path, setup: Setup) -> list[Job]:
    """All runs of a comparison, seed by seed, so that pairs are complete as early as possible."""
    jobs = []
    for seed in setup.seeds:
        for loss in setup.losses:
            folder = run_folder(out, loss, seed)
            jobs.append(Job(loss, seed, folder, setup.digest, tuple(setup.fit_options(loss, seed, folder))))
    return jobs


def run_jobs(jobs: Sequence[Job], runner: Runner, parallel: int, console: Console) -> dict[Job, str]:
    """Run the jobs that are not finished, `parallel` at a time, with progress; returns the failures."""
    failures: dict[Job, str] = {}
    todo = []
    for job in jobs:
        record = RunRecord.load(job.folder)
        if record is not None and record.finished:
            console.print(f"{job.name}: finished before, skipped")
        else:
            todo.append(job)
    with ThreadPoolExecutor(parallel) as pool, _watch(todo, console) as refresh:
        running: dict[Future[str | None], Job] = {pool.submit(_run_one, job, runner, console): job for job in todo}
        try:
            while running:
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                refresh()
                for future in done:
                    job = running.pop(future)
                    error = future.result()
                    if error is not None:
                        failures[job] = error
                    _tell(job, error, console)
        except BaseException:
            runner.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return failures


def _run_one(job: Job, runner: Runner, console: Console) -> str | None:
    if not console.is_terminal:
        console.print(f"{job.name}: running, log in {job.folder / LOG_FILE}", markup=False, highlight=False)
    job.folder.mkdir(parents=True, exist_ok=True)
    error_file = job.folder / ERROR_FILE
    error_file.unlink(missing_ok=True)
    error = runner(job)
    record = RunRecord.load(job.folder)
    if error is None and (record is None or not record.finished):
        error = f"the run ended without finishing its record; see {job.folder / LOG_FILE}"
    if error is not None:
        error_file.write_text(error + "\n")
    return error


def _tell(job: Job, error: str | None, console: Console) -> None:
    record = RunRecord.load(job.folder)
    if error is not None:
        console.print(Text.assemble((f"{job.name}: failed", "bold red"), f": {error} (log: {job.folder / LOG_FILE})"))
    elif record is not None:
        value = _last_value(record)
        console.print(
            f"{job.name}: {value}{', ' if value else ''}{record.steps} steps in {record.seconds:.0f} s of training"
        )


def _last_value(record: RunRecord) -> str:
    """What the run is judged by, at its last evaluation; "" before the first."""
    return f"{value_words(record.values[0])} {record.evaluations[-1].ap:.1f}" if record.evaluations else ""


@contextlib.contextmanager
def _watch(jobs: Sequence[Job], console: Console) -> Iterator[Callable[[], None]]:
    """Progress bars fed from the runs' records; yields a function that refreshes them."""
    if not console.is_terminal:
        yield lambda: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[value]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks: list[tuple[Job, TaskID]] = [
            (job, progress.add_task(job.name, total=None, start=False, value="")) for job in jobs
        ]

        def refresh() -> None:
            for job, task in tasks:
                record = RunRecord.load(job.folder)
                if record is None or not record.max_steps:
                    continue
                if not progress.tasks[task].started:
                    progress.start_task(task)
                progress.update(task, completed=record.steps, total=record.max_steps, value=_last_value(record))

        yield refresh


class SubprocessRunner:
    """Runs a job as `influencerformer fit` in a process of its own, its output appended to the run's log.

    Args:
        threads: OMP_NUM_THREADS of each run.
        hold: an open file each run inherits, so that its lock lasts as long as any run does.
        entry: module that does one run.
    """

    def __init__(
        self,
        threads: int,
        hold: IO[Any] | None = None,
        entry: str = "influencerformer.training.compare_run",
    ) -> None:
        self.threads = threads
        self.entry = entry
        self._hold = (hold.fileno(),) if hold is not None else ()
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._stopped = False

    def __call__(self, job: Job) -> str | None:
        command = [sys.executable, "-m", self.entry]
        command += [job.loss, str(job.seed), job.digest, *job.options]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        with (job.folder / LOG_FILE).open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            start = log.tell()
            with self._lock:
                if self._stopped:
                    return "stopped before it began"
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=self._hold,
                )
                self._running.append(process)
            code = process.wait()
        with self._lock:
            self._running.remove(process)
        if code == 0:
            return None
        with (job.folder / LOG_FILE).open("rb") as log:
            log.seek(start)
            return error_sentence(log.read().decode(errors="replace"), code)

    def stop(self) -> None:
        """End the runs in progress; they can be resumed."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def error_sentence(log: str, code: int) -> str:
    """What a failed run said last: its error's line, or else its last line, or else how it was ended."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if ERROR_LINE.match(line):
            return line
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (often: out of memory)" if -code == signal.SIGKILL else ""
        return f"the run was ended by {name}{hint}"
    return lines[-1] if lines else f"the run ended with exit code {code} and no output"


@contextlib.contextmanager
def locked(out: Path) -> Iterator[IO[Any]]:
    """Hold the folder for one comparison at a time, its runs included.

    Raises:
        UserError: another comparison, or a run it left behind, is at work in `out`.
    """
    import fcntl

    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another comparison, or a run one left behind, is still at work in {out}: "
                "wait for it, stop it, or choose another --out"
            ) from None
        yield handle


def threads_per_run(parallel: int) -> int:
    """Cores divided by the runs side by side, or OMP_NUM_THREADS where it asks for fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores // parallel)
    return min(share, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else share


def load_runs(out: Path, setup: Setup) -> tuple[list[RunRecord], dict[tuple[str, int], str]]:
    """The records of a comparison's folder and the errors of its failed runs, by loss and seed."""
    records, failures = [], {}
    for job in plan_jobs(out, setup):
        record = RunRecord.load(job.folder)
        if record is not None:
            records.append(record)
        error_file = job.folder / ERROR_FILE
        if error_file.is_file() and not (record is not None and record.finished):
            failures[job.loss, job.seed] = error_file.read_text().strip()
    return records, failures


def print_table(out: Path, setup: Setup, console: Console) -> None:
    """The comparison's table and headline on the terminal."""
    records, failures = load_runs(out, setup)
    comparison = summarise(records, setup.losses)
    rows = table_rows(comparison, failures)
    table = Table(title=f"{setup.title}, {len(setup.seeds)} seed(s)")
    table.add_column("")
    for row in rows:
        table.add_column(row[0], justify="right")
    for index, label in enumerate(table_header(comparison.values)[1:], start=1):
        table.add_row(label, *(row[index] for row in rows))
    console.print(table)
    for sentence in headline(comparison):
        console.print(sentence, highlight=False)
    for sentence in time_caveats(comparison):
        console.print(sentence, style="yellow", highlight=False)


def make_parser() -> argparse.ArgumentParser:
    """The options of `influencerformer compare`."""
    parser = argparse.ArgumentParser(
        prog="influencerformer compare",
        description="Train the same model once per loss and seed, and report how the losses differ.",
    )
    parser.add_argument(
        "--config", type=Path, action="append", help="configuration of `fit` shared by all runs (repeatable)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the report")
    parser.add_argument("--seeds", type=int, nargs="+", help="one run per loss and seed (default: 0)")
    parser.add_argument("--losses", nargs="+", help="losses, the baseline first (default: hungarian influencer)")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (each then runs slower)")
    parser.add_argument("--max-steps", type=int, help="training steps of every run (default: the config's)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="more options for `fit`"
    )
    parser.add_argument("--report-only", action="store_true", help="train nothing, rebuild table and report from --out")
    return parser


def main(argv: Sequence[str] | None = None, runner: Runner | None = None) -> int:
    """Run the command; returns its exit code: 0, or 1 where a run failed.

    Raises:
        UserError: the options, the configuration or the folder cannot be used.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = make_parser().parse_args(argv)
    console = Console()
    if args.report_only:
        return finish(args.out, open_setup(args.out), console)
    if args.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {args.jobs}")
    setup = make_setup(
        configs=args.config or [],
        losses=args.losses or ["hungarian", "influencer"],
        seeds=args.seeds or [0],
        overrides=args.set,
        max_steps=args.max_steps,
        jobs=args.jobs,
        command=shlex.join(["influencerformer", "compare", *argv]),
    )
    with locked(args.out) as hold:
        whole = setup.store(args.out)
        runner = runner or SubprocessRunner(threads_per_run(args.jobs), hold)
        began = time.monotonic()
        try:
            with _terminate_as_interrupt():
                run_jobs(plan_jobs(args.out, setup), runner, args.jobs, console)
        except KeyboardInterrupt:
            console.print("Stopped. The same command resumes the unfinished runs from their checkpoints.")
            return 130
        console.print(f"All runs done in {time.monotonic() - began:.0f} s.")
        return finish(args.out, whole, console)


def finish(out: Path, setup: Setup, console: Console) -> int:
    """Print the table, write the report; the exit code."""
    from influencerformer.training.report import write_report

    print_table(out, setup, console)
    path = write_report(out, setup, *load_runs(out, setup))
    console.print(f"Report: {path}")
    return 1 if load_runs(out, setup)[1] else 0


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the runs in progress as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
