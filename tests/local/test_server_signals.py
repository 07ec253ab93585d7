"""Requests to stop, signals and kills of an attempt that has servers."""

import os
import signal
from pathlib import Path

import psutil

from served_attempts import PATIENCE_SECONDS, Workplace, wait_until


def test_a_request_to_stop_reaches_the_command(place: Workplace) -> None:
    program = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"pathlib.Path({str(place.folder / 'up')!r}).touch()\n"
        "time.sleep(60)\n"
    )
    with place.start(program) as process:
        wait_until((place.folder / "up").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 75


def test_a_signal_to_the_whole_group_reaches_the_command_once_and_no_server(
    place: Workplace,
) -> None:
    """So the trainer has time to save itself, with servers that still answer."""
    program = (
        "import os, pathlib, signal, time, urllib.request\n"
        "heard = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: heard.append(1))\n"
        f"pathlib.Path({str(place.folder / 'up')!r}).touch()\n"
        "while not heard: time.sleep(0.02)\n"
        "time.sleep(1)\n"
        "url = os.environ['PRISM_ROLLOUT_URLS'] + '/v1/chat/completions'\n"
        "try: urllib.request.urlopen(url, b'{\"max_completion_tokens\": 1}')\n"
        "except urllib.error.HTTPError as answer: print(len(heard), answer.code)\n"
        "raise SystemExit(75)\n"
    )
    with place.start(program) as process:
        wait_until((place.folder / "up").exists)
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, output) == (75, "1 400\n"), errors


def test_a_command_that_is_stopped_before_it_can_hear_of_it_was_stopped_on_request(
    place: Workplace,
) -> None:
    program = f"import pathlib, time; pathlib.Path({str(place.folder / 'up')!r}).touch(); "
    with place.start(program + "time.sleep(60)") as process:
        wait_until((place.folder / "up").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 75


def test_a_command_that_somebody_else_ends_was_not(place: Workplace) -> None:
    ended = place.run("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert ended.code not in (0, 75)


def test_a_request_to_stop_in_the_first_moment_is_answered_and_starts_nothing(
    place: Workplace,
) -> None:
    with place.start("print('trained')", stub="time.sleep(60)") as process:
        wait_until(lambda: catches_sigterm(process.pid))
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, output) == (75, "")


def catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_request_to_stop_before_the_servers_are_ready_starts_nothing(place: Workplace) -> None:
    with place.start("print('trained')", stub="time.sleep(60)") as process:
        wait_until((place.folder / "rollout-0" / "log.txt").exists)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, output) == (75, "")


def test_nobody_outlives_a_killed_attempt(place: Workplace) -> None:
    up = place.folder / "up"
    # As the launcher does, the command asks to end with its parent.
    program = (
        "from prism_api.process import die_with_parent, inherited_ancestor\n"
        "die_with_parent(inherited_ancestor())\n"
        f"import pathlib, time; pathlib.Path({str(up)!r}).touch(); time.sleep(60)"
    )
    with place.start(program) as process:
        wait_until(up.exists)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        process.kill()
    wait_until(lambda: not any(child.is_running() for child in children))
