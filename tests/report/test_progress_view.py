"""Live progress: plain lines in a log, bars on a terminal, and a sane terminal afterwards."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from rich.console import Console

from prism_operator.progress import PLAIN_INTERVAL_SECONDS, ProgressView, done_line
from report_builders import a_result

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@dataclass
class Clock:
    """A clock that only moves when told."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A view that writes to a text, and the lines that it has written."""

    def __init__(self, *, live: bool | None = None) -> None:
        self.clock = Clock()
        self.file = io.StringIO()
        console = Console(file=self.file, width=100, force_terminal=live)
        self.view = ProgressView(console, live=live, clock=self.clock)

    def update(
        self,
        step: int,
        phase: str = "train",
        metrics: Mapping[str, float] | None = None,
        after: float = 0.0,
    ) -> None:
        self.clock.now += after
        self.view.update("align", phase, step, 40, metrics or {}, 90.0)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()

    @property
    def last_bar(self) -> str:
        return [text for line in self.lines if "/" in (text := _plain(line))][-1]


def test_a_log_gets_one_line_with_all_that_matters() -> None:
    log = Log()
    log.update(1, metrics={"loss": 0.4312, "reward": -1.25, "entropy": 3.0})
    assert log.lines == [
        "Alignment 1/40  loss 0.431  reward -1.250  elapsed 0:00  left 1:30",
    ]


def test_what_is_not_known_is_left_out() -> None:
    log = Log()
    log.view.update("sft", "train", 3, 400, {}, None)
    assert log.lines == ["SFT 3/400  elapsed 0:00"]


def test_a_log_gets_a_line_only_now_and_then() -> None:
    log = Log()
    for step in range(1, 31):
        log.update(step, after=1.0)
    steps = [line.split()[1] for line in log.lines]
    assert steps == ["1/40", "11/40", "21/40"]
    assert PLAIN_INTERVAL_SECONDS == 10.0


def test_a_new_phase_and_its_last_step_are_always_told_once() -> None:
    log = Log()
    for step, phase in (
        (1, "warmup"),
        (39, "warmup"),
        (40, "warmup"),
        (40, "warmup"),
        (1, "train"),
    ):
        log.update(step, phase)
    assert [line.split("  ")[0] for line in log.lines] == [
        "Alignment warm-up 1/40",
        "Alignment warm-up 40/40",
        "Alignment 1/40",
    ]


def test_elapsed_time_counts_from_the_first_update_of_the_stage() -> None:
    log = Log()
    log.update(1, "warmup")
    log.update(1, after=75.0)
    assert "elapsed 1:15" in log.lines[-1]


def test_a_warmup_shows_the_loss_of_the_discriminator() -> None:
    log = Log()
    log.update(1, "warmup", {"discriminator_loss": 0.69})
    assert "loss 0.690" in log.lines[0]


def test_a_long_line_is_not_wrapped_in_a_log() -> None:
    log = Log()
    log.view.message("x" * 300)
    assert log.lines == ["x" * 300]


def test_a_message_is_text_and_neither_markup_nor_control_sequence() -> None:
    log = Log()
    log.view.message("[bold]a[/] \x1b[2J\x07b")
    assert log.lines == ["[bold]a[/] [2Jb"]


def test_a_finished_stage_tells_its_accuracy_with_the_interval() -> None:
    log = Log()
    log.view.stage_done(a_result("align"))
    assert log.lines == [
        "Alignment done: 40 steps in 1:44, held-out accuracy 79.6 % "
        "(95 % interval 76.6 - 82.3 %), captions 90.3 %"
    ]


def test_a_stage_without_evaluation_only_tells_its_cost() -> None:
    assert done_line(a_result("sft", evaluation=None)) == "SFT done: 400 steps in 1:44"


def test_a_log_holds_no_control_sequence_even_where_colour_is_forced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with ProgressView(Console(file=file)) as view:
        view.update("sft", "train", 1, 2, {"loss": 1.0}, 3.0)
        view.stage_done(a_result("sft"))
    assert "\x1b" not in file.getvalue()


def test_a_terminal_shows_the_bar_and_keeps_the_finished_stage() -> None:
    log = Log(live=True)
    with log.view:
        log.update(10, metrics={"loss": 0.5, "reward": 1.0})
        log.view.stage_done(a_result("align"))
        log.view.update("rlvr", "train", 60, 120, {"loss": 0.25}, 61.0)
    assert any("Alignment done: 40 steps" in line for line in log.lines)
    assert "Alignment" not in log.last_bar
    assert "RLVR  " in log.last_bar
    assert "60/120 loss 0.250 0:00 1:01 left" in log.last_bar


def test_time_left_counts_down_between_updates() -> None:
    log = Log(live=True)
    with log.view:
        log.update(10)
        log.clock.now += 30.0
    assert "0:30 1:00 left" in log.last_bar


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_cursor_comes_back_whatever_happens(error: type[BaseException]) -> None:
    log = Log(live=True)
    with pytest.raises(error):
        _fail_with(error, log)
    assert log.file.getvalue().rindex(SHOW_CURSOR) > log.file.getvalue().rindex(HIDE_CURSOR)


def _fail_with(error: type[BaseException], log: Log) -> None:
    with log.view:
        log.update(1)
        raise error


_CHILD = """
import signal, time
from prism_operator.progress import ProgressView
# A shell starts background jobs, CI among them, with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with ProgressView() as view:
    for step in range(1, 1000):
        view.update("sft", "train", step, 1000, {"loss": 1.0}, 5.0)
        time.sleep(0.02)
"""


def test_ctrl_c_on_a_real_terminal_gives_it_back() -> None:
    terminal, child_side = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD],
        stdin=child_side,
        stdout=child_side,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(child_side)
    try:
        shown = _read_until(terminal, "/1000")
        child.send_signal(signal.SIGINT)
        shown += _read_until(terminal, SHOW_CURSOR)
        child.wait(10)
    finally:
        child.kill()
        child.wait()
        os.close(terminal)
    assert HIDE_CURSOR in shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)


def _read_until(terminal: int, text: str, timeout_seconds: float = 20.0) -> str:
    shown, deadline = "", time.monotonic() + timeout_seconds
    while text not in shown and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                shown += os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # the child has closed its side
                break
    assert text in shown
    return shown


def _plain(line: str) -> str:
    return "".join(part.split("m", 1)[-1] for part in line.split("\x1b["))
