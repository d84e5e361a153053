"""What a sweep shows while it runs: one line a trial event, and a bar with the time left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.console import Console

from raytune_glm.search import SearchSettings
from raytune_glm.trials.bar import bar
from raytune_glm.trials.records import State, TrialRow

if TYPE_CHECKING:
    from raytune_glm.trials.ledger import LiveTrial

COLOURS = {
    State.COMPLETE: "green",
    State.PRUNED: "yellow",
    State.FAILED: "red",
    State.INFEASIBLE: "magenta",
}


class News(NamedTuple):
    """What has become of a host, or of a trial that waited for a device."""

    whose: Literal["host", "trial"]
    number: int
    what: str
    rest: str


class Progress:
    """The terminal of a running sweep; where there is none, only the event lines are printed."""

    def __init__(
        self,
        console: Console,
        search: SearchSettings,
        *,
        mode: str,
        rows: Iterable[TrialRow],
        noun: str = "trial",
    ) -> None:
        """Show a sweep, of which `rows` have ended before; `noun` is what its trials are called."""
        self._noun = noun
        self._console = console
        self._metric = search.metric
        self._num_trials = search.num_trials
        self._better = max if mode == "max" else min
        self._ended = 0
        self._best: float | None = None
        self._bar = bar(console)
        self._task = self._bar.add_task("", total=search.num_trials)
        for row in rows:
            self._count(row)
        self._show([])

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def started(self, trial: LiveTrial) -> None:
        """A trial's process is up."""
        after = f" after step {trial.reports[-1]['step']}" if trial.reports else ""
        self._line("blue", self._name(trial.number), f"started{after}", format_params(trial.params))

    def retried(self, number: int, changes: dict[str, Any]) -> None:
        """A trial ran out of memory and goes on with other settings of the same result."""
        self._line(
            "magenta", self._name(number), "no memory", f"next with {format_params(changes)}"
        )

    def restarted(self, number: int) -> None:
        """A trial's process died, and it goes on in another from its last checkpoint."""
        self._line("yellow", self._name(number), "restarted", "its process died")

    def steered(self, what: str) -> None:
        """An order from outside was carried out."""
        self._line("cyan", "ctl", "", what)

    def paced(self, host: int, what: str) -> None:
        """A host has measured how many trials should share a pass."""
        self._line("blue", f"host {host}", "measured", what)

    def lost(self, host: int, what: str) -> None:
        """A host is gone, and what became of its trials."""
        self._line("red", f"host {host}", "gone", what)

    def turned(self, news: News) -> None:
        """A host came, left its device or came back, or a trial that waited has a device."""
        number = news.number
        name = self._name(number) if news.whose == "trial" else f"{news.whose} {number}"
        self._line("blue", name, news.what, news.rest)

    def queued(self, trial: LiveTrial) -> None:
        """A trial waits until devices are free for it."""
        self._line("yellow", self._name(trial.number), "queued", format_params(trial.params))

    def grew(self, num_trials: int) -> None:
        """The sweep has more trials than it began with."""
        self._num_trials = num_trials
        self._bar.update(self._task, total=num_trials)

    def set_aside(self, number: int) -> None:
        """A trial waits for the end of a pause, with its checkpoint."""
        self._line("yellow", self._name(number), "waiting", "until the sweep is resumed")

    def reported(self, live: Iterable[LiveTrial]) -> None:
        """A trial has reported an evaluation."""
        self._show(live)

    def finished(self, row: TrialRow, live: Iterable[LiveTrial]) -> None:
        """A trial has ended; `live` are those that go on."""
        best = row.metrics["best"].get(self._metric)
        score = "" if best is None else f"{self._metric}={best:.4f}"
        seconds = "" if row.seconds is None else f" in {row.seconds:.0f} s"
        self._line(
            COLOURS[row.state],
            self._name(row.number),
            row.state.value.lower(),
            f"{score} at step {row.steps}{seconds}",
        )
        if row.note:
            self._console.print(f"    {row.note}", markup=False, highlight=False)
        if row.error:
            self._console.print(f"    {row.error.splitlines()[-1]}", markup=False, highlight=False)
        self._count(row)
        self._show(live)

    def stopped(self, reason: str) -> None:
        """The sweep stops before its end."""
        self._console.print("[red]stopped[/red]", highlight=False)
        self._console.print(f"    {reason}", markup=False, highlight=False)

    def _count(self, row: TrialRow) -> None:
        self._ended += 1
        value = row.metrics["best"].get(self._metric)
        if value is not None:
            self._best = value if self._best is None else self._better(self._best, value)

    def _show(self, live: Iterable[LiveTrial]) -> None:
        best = "" if self._best is None else f", best {self._metric} {self._best:.4f}"
        self._bar.update(
            self._task,
            completed=self._ended + sum(trial.progress for trial in live),
            description=f"{self._ended}/{self._num_trials} {self._noun}s{best}",
        )

    def _name(self, number: int) -> str:
        return f"{self._noun} {number}"

    def _line(self, colour: str, *parts: str) -> None:
        head, what, rest = parts
        self._console.print(f"{head:<9} [{colour}]{what:<10}[/{colour}] {rest}", highlight=False)


def format_params(params: dict[str, Any]) -> str:
    """A trial's values in one line: `rank=8 learning_rate=0.000312`, sections left out."""
    return " ".join(f"{path.rsplit('.', 1)[-1]}={short(value)}" for path, value in params.items())


def short(value: Any) -> str:
    """A value in few characters: three digits of a float, the variant's name of a section."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return str(value.get("name", value))
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return str(value)
