"""What a run shows while it trains: a line an evaluation, and a bar of steps with the time left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from raytune_glm import files
from raytune_glm.metrics import METRICS
from raytune_glm.trials.bar import bar
from raytune_glm.trials.records import ResultsFolder

REPORTS = "metrics.jsonl"
"""File in the results folder: a line an evaluation."""

SPOKEN_EVERY_S = 60.0
"""Where there is no terminal for a bar, a line at most so often says how far training is."""

_TAIL_BYTES = 4096
"""More than a line of `train.jsonl` has."""


class Watch:
    """The terminal of a run, fed from the files that its first worker writes."""

    def __init__(self, console: Console, results: ResultsFolder, *, total_steps: int) -> None:
        """Watch a run that is about to start, or to go on."""
        self._console = console
        self._results = results
        self._metrics = results.root / REPORTS
        self._total_steps = total_steps
        self._told = len(files.read_lines(self._metrics))
        self._spoken_at = time.monotonic()
        self._bar = bar(console)
        self._task = self._bar.add_task("starting the workers, loading the model", total=None)

    def __enter__(self) -> Watch:
        if self._told:
            step = files.read_lines(self._metrics)[-1]["step"]
            self._console.print(f"going on after step {step}", highlight=False)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def retried(self, changes: dict[str, Any]) -> None:
        """Memory did not suffice; workers start anew with less."""
        told = ", ".join(f"{path}={value}" for path, value in changes.items())
        self._console.print(f"out of memory: again with {told}", highlight=False, markup=False)

    def look(self) -> None:
        """Read what is new in the files, and show it."""
        reports = files.read_lines(self._metrics)
        for report in reports[self._told :]:
            self._console.print(describe_report(report), highlight=False, markup=False)
        self._told = len(reports)
        last = last_line(self._results.root / "train.jsonl")
        if last is None:
            return
        step, total, loss = last["step"], self._total_steps, last["loss"]
        text = f"step {step}/{total}, train loss {loss:.4f}"
        self._bar.update(self._task, completed=step, total=total, description=text)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._spoken_at >= SPOKEN_EVERY_S:
            self._spoken_at = now
            self._console.print(text, highlight=False, markup=False)


def describe_report(report: dict[str, Any]) -> str:
    """An evaluation in one line: `step 75/300  train_loss=0.5123 eval_loss=0.4987 (12 s)`."""
    scores = " ".join(
        f"{name}={report[name]:.4f}" for name in ("train_loss", *METRICS) if name in report
    )
    return f"step {report['step']}/{report['total_steps']}  {scores}  ({report['seconds']:.0f} s)"


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of a file of JSON lines; None where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            whole = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    value: dict[str, Any] | None = json.loads(whole[-1]) if whole else None
    return value
