"""Live progress of a local run: bars on a terminal, plain lines in a log.

The local runner calls it. It shows what it is told and neither reads files nor knows processes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from prism_api.names import StageKind
from prism_api.stage_config import StageResult
from prism_operator.report.summary import wilson_interval
from prism_operator.report.text import STAGE_LABELS, duration, number, percent, percent_range

PLAIN_INTERVAL_SECONDS = 10.0
"""Between two plain lines of the same phase of a stage."""

REFRESHES_PER_SECOND = 2
"""Few: the trainer needs the cores more than the bar does."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Update:
    """Where a stage is."""

    stage: StageKind
    phase: str
    step: int
    steps: int
    metrics: Mapping[str, float]
    eta_seconds: float | None
    started: float
    """When the stage's first update came, and when this one came, by the view's clock."""
    now: float

    @property
    def title(self) -> str:
        """The stage, and its phase unless that is training."""
        label = STAGE_LABELS[self.stage]
        return label if self.phase == "train" else f"{label} {_PHASES.get(self.phase, self.phase)}"

    @property
    def measured(self) -> str:
        """Loss and reward, as far as there are any; a warm-up has the discriminator's loss."""
        loss = self.metrics.get("loss", self.metrics.get("discriminator_loss"))
        shown = (("loss", loss), ("reward", self.metrics.get("reward")))
        return "  ".join(f"{name} {number(value)}" for name, value in shown if value is not None)


_PHASES = {"warmup": "warm-up"}


class Display(Protocol):
    """One way to show progress; ProgressView picks it."""

    def start(self) -> None:
        """Take over the terminal, if there is one."""

    def stop(self) -> None:
        """Give it back, whatever happened."""

    def update(self, update: Update) -> None:
        """Show where a stage is."""

    def remove(self, stage: StageKind) -> None:
        """Show that a stage no longer runs."""

    def line(self, text: str) -> None:
        """Show a text that stays."""


class ProgressView:
    """A live bar for the running stage of a run, a lasting line for each finished one.

    A context manager. On the way out, by an exception or Ctrl-C too, the terminal is as it was.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        live: bool | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        console = console or Console(highlight=False)
        live = is_live(console) if live is None else live
        self._display: Display = LiveBars(console, clock) if live else PlainLines(console)
        self._clock = clock
        self._started: dict[StageKind, float] = {}

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._display.stop()

    def update(
        self,
        stage: StageKind,
        phase: str,
        step: int,
        steps: int,
        metrics: Mapping[str, float],
        eta_seconds: float | None,
    ) -> None:
        """Show that a stage has done `step` of the `steps` of its phase."""
        now = self._clock()
        started = self._started.setdefault(stage, now)
        self._display.update(Update(stage, phase, step, steps, metrics, eta_seconds, started, now))

    def stage_done(self, result: StageResult) -> None:
        """Replace the stage's bar by a line with what it reached."""
        self._display.remove(result.kind)
        self._display.line(done_line(result))

    def message(self, text: str) -> None:
        """Show a text above the bars."""
        # A child's words may hold control sequences; they are not for this terminal.
        self._display.line("".join(c for c in text if c.isprintable() or c in "\n\t"))


def is_live(console: Console) -> bool:
    """Whether bars can be drawn; FORCE_COLOR, set by CI systems, makes no terminal of a log."""
    return console.is_interactive and not console.is_dumb_terminal and console.file.isatty()


def done_line(result: StageResult) -> str:
    """What a finished stage reached, in one line."""
    line = f"{STAGE_LABELS[result.kind]} done: {result.steps} steps in {duration(result.seconds)}"
    measured = result.evaluation
    if measured is None:
        return line
    interval = percent_range(wilson_interval(measured.correct, measured.samples))
    line += f", held-out accuracy {percent(measured.accuracy)} (95 % interval {interval})"
    if measured.caption_accuracy is not None:
        line += f", captions {percent(measured.caption_accuracy)}"
    return line


class PlainLines:
    """For logs: a line when a phase starts and ends, and in between only now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[StageKind, Update] = {}

    def start(self) -> None:
        """Nothing to take over."""

    def stop(self) -> None:
        """Nothing to give back."""

    def update(self, update: Update) -> None:
        """Print a line if one is due."""
        if self._is_due(update):
            self._shown[update.stage] = update
            self.line(_plain(update))

    def _is_due(self, update: Update) -> bool:
        last = self._shown.get(update.stage)
        if last is None or update.phase != last.phase:
            return True
        just_complete = update.step >= update.steps and last.step < update.steps
        return just_complete or update.now - last.now >= PLAIN_INTERVAL_SECONDS

    def remove(self, stage: StageKind) -> None:
        """Forget the stage."""
        self._shown.pop(stage, None)

    def line(self, text: str) -> None:
        """Print it, unwrapped."""
        self._console.print(Text(text), soft_wrap=True)


def _plain(update: Update) -> str:
    parts = [
        f"{update.title} {update.step}/{update.steps}",
        update.measured,
        f"elapsed {duration(update.now - update.started)}",
        "" if update.eta_seconds is None else f"left {duration(update.eta_seconds)}",
    ]
    return "  ".join(part for part in parts if part)


class LiveBars:
    """For terminals: one bar per running stage, redrawn in place."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._progress = Progress(
            _Field(lambda update: update.title, min_width=17),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            _Field(lambda update: f"{update.step}/{update.steps}", justify_right=True),
            _Field(lambda update: update.measured),
            _Field(lambda update: duration(clock() - update.started), justify_right=True),
            _Field(lambda update: _time_left(update, clock()), justify_right=True),
            console=console,
            expand=True,
            refresh_per_second=REFRESHES_PER_SECOND,
        )
        self._tasks: dict[StageKind, TaskID] = {}

    def start(self) -> None:
        """Start redrawing."""
        self._progress.start()

    def stop(self) -> None:
        """Stop redrawing, keep what is drawn, show the cursor again."""
        self._progress.stop()

    def update(self, update: Update) -> None:
        """Move the stage's bar."""
        if update.stage not in self._tasks:
            self._tasks[update.stage] = self._progress.add_task("", update=update)
        task = self._tasks[update.stage]
        self._progress.update(task, completed=update.step, total=update.steps, update=update)

    def remove(self, stage: StageKind) -> None:
        """Take the stage's bar away."""
        task = self._tasks.pop(stage, None)
        if task is not None:
            self._progress.remove_task(task)

    def line(self, text: str) -> None:
        """Print it above the bars."""
        self._progress.console.print(Text(text))


def _time_left(update: Update, now: float) -> str:
    if update.eta_seconds is None:
        return ""
    return f"{duration(update.eta_seconds - (now - update.now))} left"


class _Field(ProgressColumn):
    """A text made from the update itself: rich's own clocks freeze when a phase is over."""

    def __init__(
        self, read: Callable[[Update], str], *, justify_right: bool = False, min_width: int = 0
    ) -> None:
        self._read = read
        super().__init__(
            Column(
                no_wrap=True,
                justify="right" if justify_right else "left",
                min_width=min_width or None,
            )
        )

    def render(self, task: Task) -> Text:
        """The text of this moment."""
        return Text(self._read(task.fields["update"]))
