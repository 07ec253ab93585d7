"""The client against servers that fail in every way, over real sockets."""

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from client_of_scripts import CHAT, LIMITS, STATE, UPDATE, Trainer, hang, hang_up, say, times
from prism_api.errors import RolloutError
from prism_api.resources import Rollout
from prism_api.rollout import UpdateDeadlines
from prism_trainer import distributed
from prism_trainer.rollouts import Request
from prism_trainer.rollouts.faults import Budget
from prism_trainer.rollouts.server import Limits
from scripted_server import Handler, Scripted, metrics, scripted_server


def test_a_server_has_the_time_to_name_the_part_of_an_update_that_was_too_slow() -> None:
    """Even if it first waits for the update that another process has asked for."""
    assert Limits().update > 2 * UpdateDeadlines().total == 2 * (1800 + 60 + 600 + 60)


def test_peers_wait_longer_than_one_process_may_wait_for_a_request() -> None:
    """Or the collective that they are in would end the stage first."""
    longest = Limits().update + Budget().attempts * Limits().request
    with_servers = distributed.patience(Rollout(backend="vllm"))
    assert timedelta(seconds=longest) <= with_servers < timedelta(hours=12)
    assert distributed.patience(Rollout(backend="inprocess")) == distributed.patience(None)
    assert distributed.patience(None) < with_servers


def test_prompts_are_spread_over_all_servers_and_answers_keep_their_order(
    one: Scripted, two: Scripted, model: Any, tmp_path: Path, request_: Request
) -> None:
    patient = replace(LIMITS, answer=30, stall=30)  # 200 threads on a busy machine take their time
    completions = Trainer([one, two], model, tmp_path, request_, patient).sample(200)
    assert len(completions) == 200
    assert one.counts[CHAT] + two.counts[CHAT] == 200
    assert min(one.counts[CHAT], two.counts[CHAT]) > 60


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        (STATE, hang_up),
        (STATE, hang),
        (STATE, say(503)),
        (UPDATE, hang_up),
        (UPDATE, hang),
        (UPDATE, say(500, "load: took longer than 600 s")),
        (CHAT, hang_up),
        (CHAT, say(500)),
        (CHAT, say(502)),
        (CHAT, say(409, "other weights")),
        (CHAT, lambda handler: handler.reply(200, handler.script.answer, weights="0" * 64)),
    ],
)
def test_a_failure_now_and_then_is_mended(
    trainer: Trainer, one: Scripted, path: str, reply: Any
) -> None:
    one.replies[path] = times(1, reply, one.replies[path])
    assert len(trainer.sample(3)) == 3
    assert one.counts[path] >= 2


@pytest.mark.parametrize(
    ("path", "reply", "operation", "says"),
    [
        (STATE, hang_up, "state", "disconnected"),
        (STATE, hang, "state", "no answer within 0.5 s"),
        (UPDATE, hang_up, "update", "disconnected"),
        (UPDATE, hang, "update", "no answer within 1 s"),
        (UPDATE, say(500, "load: RuntimeError"), "update", "500: load: RuntimeError"),
        (CHAT, hang_up, "generate", "disconnected"),
        (CHAT, say(500, "engine dead"), "generate", "500: engine dead"),
        (CHAT, say(409, "other weights"), "generate", "409: other weights"),
        (
            CHAT,
            lambda handler: handler.reply(200, handler.script.answer, weights="0" * 64),
            "generate",
            "answered with weights 000000000000",
        ),
    ],
)
def test_a_failure_that_stays_is_an_error_that_names_server_and_operation(
    trainer: Trainer, one: Scripted, path: str, reply: Any, operation: str, says: str
) -> None:
    one.replies[path] = reply
    error = trainer.error()
    assert isinstance(error, RolloutError)
    assert str(error).startswith(f"{one.url}: {operation}: ")
    assert says in str(error)


def test_a_server_that_is_not_there_is_an_error_soon(
    model: Any, tmp_path: Path, request_: Request
) -> None:
    with scripted_server() as server:
        pass
    trainer = Trainer([server], model, tmp_path, request_)
    error = trainer.error()
    assert "All connection attempts failed" in str(error)
    assert "start the server again" in str(error)


def test_a_server_that_produces_nothing_is_found_by_its_metrics(
    trainer: Trainer, one: Scripted
) -> None:
    one.replies[CHAT] = hang
    one.replies["GET /metrics"] = say(200, metrics(3))
    error = trainer.error()
    assert "generate: no token for" in str(error)


def test_a_slow_server_that_makes_progress_is_waited_for(trainer: Trainer, one: Scripted) -> None:
    def slowly(handler: Handler) -> None:
        time.sleep(4 * LIMITS.stall)
        handler.reply(200, one.answer)

    one.replies[CHAT] = slowly
    assert len(trainer.sample()) == 1
    assert one.counts[CHAT] == 1


def test_a_server_without_work_is_not_stalled_however_long_another_takes(
    pair: Trainer, one: Scripted, two: Scripted
) -> None:
    def slowly(handler: Handler) -> None:
        time.sleep(4 * LIMITS.stall)
        handler.reply(200, two.answer)

    two.replies[CHAT] = slowly
    one.replies["GET /metrics"] = say(200, metrics(3))
    completions = pair.sample(2)
    assert {c.tokens.tolist()[0] for c in completions} == {1, 2}
    assert one.counts[STATE] == 1, "or it was taken for stalled and admitted again"


def test_work_of_a_stalled_server_is_done_by_another(
    pair: Trainer, one: Scripted, two: Scripted
) -> None:
    one.replies[CHAT] = hang
    one.replies["GET /metrics"] = say(200, metrics(3))
    completions = pair.sample(30)
    assert {c.tokens.tolist()[0] for c in completions} == {2}
    assert one.counts[CHAT] > 0


def test_work_of_a_killed_server_is_done_by_another(
    pair: Trainer, one: Scripted, two: Scripted
) -> None:
    for path in (CHAT, STATE):
        one.replies[path] = times(3 if path == CHAT else 1, one.replies[path], hang_up)
    assert len(pair.sample(50)) == 50
    assert two.counts[CHAT] >= 47


@pytest.mark.parametrize(("path", "status"), [(CHAT, 400), (CHAT, 404), (UPDATE, 422)])
def test_what_would_be_refused_again_is_not_sent_again(
    trainer: Trainer, one: Scripted, path: str, status: int
) -> None:
    one.replies[path] = say(status, "n must be at most 4")
    assert f"{status}: n must be at most 4; it would be refused again" in str(trainer.error())
    assert one.counts[path] == 1


def test_more_prompts_than_a_server_takes_at_once_wait(trainer: Trainer, one: Scripted) -> None:
    servers = replace(trainer.client._servers, concurrency=3)
    trainer.client._servers = servers
    assert len(trainer.sample(40)) == 40
    assert one.counts[CHAT] == 40
