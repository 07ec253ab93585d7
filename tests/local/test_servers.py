"""An attempt between the start and the end of its servers; a small program stands for vLLM."""

import time
from pathlib import Path

import psutil
import pytest

from served_attempts import Workplace, a_config


def test_a_relative_work_folder_suits_servers_that_work_elsewhere(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder.parent)
    relative = Workplace(Path(place.folder.name), place.site)

    ended = relative.run("pass", stub="os.chdir('/')")

    assert (ended.code, ended.errors) == (0, "")


def test_the_command_gets_addresses_of_servers_that_answer_its_token(place: Workplace) -> None:
    (place.folder / "stage.json").write_text(a_config(place.folder, replicas=2).to_json())
    ended = place.run(
        "import json, os, urllib.request\n"
        "token = open(os.environ['PRISM_ROLLOUT_TOKEN_FILE']).read()\n"
        "for url in os.environ['PRISM_ROLLOUT_URLS'].split(','):\n"
        "    body = json.dumps({'max_completion_tokens': 1}).encode()\n"
        "    headers = {'Authorization': 'Bearer ' + token}\n"
        "    request = urllib.request.Request(url + '/v1/chat/completions', body, headers)\n"
        "    print(urllib.request.urlopen(request).status)\n"
    )
    assert (ended.code, ended.output) == (0, "200\n200\n"), ended.errors


@pytest.mark.parametrize("code", [0, 1, 64, 65, 70, 74, 75])
def test_its_exit_code_is_the_commands(place: Workplace, code: int) -> None:
    assert place.run(f"raise SystemExit({code})").code == code


def test_servers_end_with_the_command(place: Workplace) -> None:
    ended = place.run("import os; print(os.environ['PRISM_ROLLOUT_URLS'])")
    port = int(ended.output.rpartition(":")[2])
    listening = {
        c.laddr.port for c in psutil.net_connections("tcp") if c.laddr and c.status == "LISTEN"
    }
    assert port not in listening


def test_a_server_that_does_not_start_is_an_error_that_names_its_log(place: Workplace) -> None:
    ended = place.run("print('trained')", stub="print('no memory'); sys.exit(3)")
    assert (ended.code, ended.output) == (1, "")
    assert "ended with exit code 3; see" in place.message
    assert (place.folder / "rollout-0" / "log.txt").read_text() == "no memory\n"


def test_a_server_that_can_never_start_is_a_permanent_failure_with_its_words(
    place: Workplace,
) -> None:
    ended = place.run("print('trained')", stub="print('--gpus: no such thing'); sys.exit(64)")
    assert (ended.code, ended.output) == (64, "")
    assert place.message.startswith("rollout: --gpus: no such thing")


def test_a_server_that_ends_ends_the_command_at_once(place: Workplace) -> None:
    started = time.monotonic()
    ended = place.run(
        "import time; time.sleep(60)",
        stub="import threading; threading.Timer(2, os._exit, [9]).start()",
    )
    assert ended.code == 1
    assert "ended with exit code 9" in place.message
    assert time.monotonic() - started < 20


def test_a_server_that_refuses_to_answer_ends_the_attempt_at_once_with_what_it_says(
    place: Workplace,
) -> None:
    """As one does with a token of its own."""
    ended = place.run(
        "print('trained')",
        stub="def read_token(_): return 'another'",
    )
    assert (ended.code, ended.output) == (1, "")
    assert "refuses to answer (400: no)" in place.message


def test_a_server_that_is_not_ready_yet_is_waited_for(place: Workplace) -> None:
    ended = place.run(
        "print('trained')",
        stub="ready_at = time.monotonic() + 1",
    )
    assert (ended.code, ended.output) == (0, "trained\n")
