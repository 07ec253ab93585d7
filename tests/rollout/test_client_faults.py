"""The client against servers that fail in every way, over real sockets."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from prism_api.errors import PrismError, RolloutError, SpecError
from prism_api.resources import DataSource, Rollout
from prism_api.rollout import TOKEN_VARIABLE, URLS_VARIABLE, UpdateDeadlines
from prism_trainer import distributed
from prism_trainer.data.encoder import Encoder
from prism_trainer.digits.processor import build_processor
from prism_trainer.digits.tokenizer import build_tokenizer
from prism_trainer.distributed import Ranks
from prism_trainer.rollouts import Completion, Request, SamplingParams
from prism_trainer.rollouts.faults import Budget
from prism_trainer.rollouts.server import Limits
from prism_trainer.rollouts.vllm_client import Servers, VllmClient, check_versions
from prism_trainer.stages.run import build_context
from rollout_servers import build_client, build_requests
from scripted_server import Handler, Scripted, metrics, scripted_server
from served_models import build_served_model, mixed_rows
from stage_builders import rlvr_stage, stage_config

LIMITS = Limits(connect=1, answer=0.5, update=1, stall=0.5, request=20, poll=0.02)
BUDGET = Budget(attempts=3, outage_seconds=0.6, first_pause_seconds=0.01, longest_pause_seconds=0.1)
SOON_SECONDS = 5
CHAT, STATE, UPDATE = "POST /v1/chat/completions", "GET /prism/weights", "POST /prism/weights"


@pytest.fixture(scope="module")
def model() -> Any:
    return build_served_model("dense", 1)


@pytest.fixture(scope="module")
def request_() -> Request:
    processor = build_processor(build_tokenizer())
    image_id = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    return build_requests(Encoder(processor, image_id), mixed_rows()[:1])[0]


def a_good_answer(request: Request, token: int) -> dict[str, Any]:
    choice = {
        "index": 0,
        "token_ids": [token],
        "finish_reason": "length",
        "logprobs": {"content": [{"logprob": -1.0}]},
    }
    return {"prompt_token_ids": request.prompt.token_ids.tolist(), "choices": [choice]}


@pytest.fixture
def one(request_: Request) -> Iterator[Scripted]:
    with scripted_server() as server:
        server.answer = a_good_answer(request_, 1)
        yield server


@pytest.fixture
def two(request_: Request) -> Iterator[Scripted]:
    with scripted_server() as server:
        server.answer = a_good_answer(request_, 2)
        yield server


class Trainer:
    """A client of some servers, with weights published."""

    def __init__(
        self,
        servers: list[Scripted],
        model: Any,
        folder: Path,
        request: Request,
        limits: Limits = LIMITS,
    ) -> None:
        addresses: Any = [_Address(server.url, folder) for server in servers]
        self.client: VllmClient = build_client(addresses, model, folder, BUDGET, limits)
        self._request = request
        self.client.update_weights(5)

    def sample(self, count: int = 1) -> list[Completion]:
        requests = [self._request] * count
        return [c for (c,) in self.client.generate(requests, SamplingParams(4))]

    def error(self, count: int = 1) -> PrismError:
        """What it ends with, soon."""
        started = time.monotonic()
        with pytest.raises(PrismError) as raised:
            self.sample(count)
        assert time.monotonic() - started < SOON_SECONDS
        return raised.value


class _Address:
    """What `build_client` needs of a server."""

    token = "a-token"

    def __init__(self, url: str, model: Path) -> None:
        self.url, self.model = url, model


@pytest.fixture
def trainer(one: Scripted, model: Any, tmp_path: Path, request_: Request) -> Trainer:
    return Trainer([one], model, tmp_path, request_)


@pytest.fixture
def pair(one: Scripted, two: Scripted, model: Any, tmp_path: Path, request_: Request) -> Trainer:
    return Trainer([one, two], model, tmp_path, request_)


def hang(handler: Handler) -> None:
    handler.hang()


def hang_up(handler: Handler) -> None:
    handler.hang_up()


def say(status: int, content: Any = "") -> Any:
    return lambda handler: handler.reply(status, content)


def times(count: int, first: Any, then: Any) -> Any:
    """A reply for the first requests, another for all later ones."""
    left = iter(range(count))
    return lambda handler: (first if next(left, None) is not None else then)(handler)


def test_a_server_gets_the_weights_before_the_first_request(
    trainer: Trainer, one: Scripted
) -> None:
    (completion,) = trainer.sample()
    assert completion.weight_version == 5
    assert one.state["weights"]["version"] == 5
    digest = one.state["weights"]["checkpoint"]["digest"]
    assert [h["x-prism-weights"] for h in one.headers if "x-prism-weights" in h] == [digest]


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


def test_every_request_carries_the_token(trainer: Trainer, one: Scripted) -> None:
    trainer.sample(3)
    assert {headers["authorization"] for headers in one.headers} == {"Bearer a-token"}


def test_weights_are_brought_once_per_version(trainer: Trainer, one: Scripted) -> None:
    for _ in range(3):
        trainer.sample()
    assert one.counts[UPDATE] == 1
    trainer.client.update_weights(6)
    assert trainer.sample()[0].weight_version == 6
    assert one.counts[UPDATE] == 2


def test_another_attempts_weights_of_the_same_version_are_replaced(
    trainer: Trainer, one: Scripted, model: Any, tmp_path: Path, request_: Request
) -> None:
    trainer.sample()
    other = Trainer([one], build_served_model("dense", 2), tmp_path / "other", request_)
    other.sample()
    assert one.counts[UPDATE] == 2


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


def test_a_server_that_lost_its_weights_gets_them_again(trainer: Trainer, one: Scripted) -> None:
    trainer.sample()
    one.state = {**one.state, "weights": None}  # as after a restart
    assert len(trainer.sample()) == 1
    assert one.counts[UPDATE] == 2


def test_a_server_that_claims_other_weights_after_an_update_is_not_used(
    trainer: Trainer, one: Scripted
) -> None:
    one.replies[UPDATE] = say(200, one.state)
    assert "has weights None after an update to 5" in str(trainer.error())
    assert one.counts[CHAT] == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"vllm": "0.25.1"}, "runs vLLM 0.25.1, tested is 0.26 to 0.32"),
        ({"vllm": "0.33.0"}, "runs vLLM 0.33.0"),
        ({"maxModelLen": 16}, "is for 16 tokens, the stage needs"),
    ],
)
def test_a_server_that_cannot_serve_the_stage_is_refused_before_any_weights(
    trainer: Trainer, one: Scripted, change: dict[str, Any], complaint: str
) -> None:
    one.state = {**one.state, **change}
    error = trainer.error()
    assert isinstance(error, SpecError)
    assert complaint in str(error)
    assert one.counts[UPDATE] == 0


def test_a_server_of_another_version_is_refused_before_anything_is_loaded(
    one: Scripted, two: Scripted
) -> None:
    """Wherever it runs."""
    with scripted_server() as gone:
        pass
    urls = (gone.url, one.url, two.url)
    check_versions(Servers(urls, "a-token", limits=LIMITS))
    two.state = {**two.state, "vllm": "0.33.0"}
    with pytest.raises(SpecError, match=f"{two.url}: runs vLLM 0.33.0, tested is 0.26 to 0.32"):
        check_versions(Servers(urls, "a-token", limits=LIMITS))


def test_a_stage_asks_its_servers_before_it_loads_the_model(
    one: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.state = {**one.state, "vllm": "0.25.1"}
    monkeypatch.setenv(URLS_VARIABLE, one.url)
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token")
    stage = rlvr_stage(DataSource(uri="file:///none.parquet"))
    config = stage_config(stage, tmp_path / "no-model", tmp_path)
    rollout = Rollout(backend="vllm", gpus_per_replica=0)
    with pytest.raises(SpecError, match=r"runs vLLM 0\.25\.1"):
        build_context(config.model_copy(update={"rollout": rollout}), Ranks(), tmp_path)


def test_a_wrong_token_is_an_error_at_once(trainer: Trainer, one: Scripted) -> None:
    one.replies[STATE] = say(401, "no")
    assert "need the same PRISM_ROLLOUT_TOKEN_FILE" in str(trainer.error())
    assert one.counts[STATE] == 1


@pytest.mark.parametrize(("path", "status"), [(CHAT, 400), (CHAT, 404), (UPDATE, 422)])
def test_what_would_be_refused_again_is_not_sent_again(
    trainer: Trainer, one: Scripted, path: str, status: int
) -> None:
    one.replies[path] = say(status, "n must be at most 4")
    assert f"{status}: n must be at most 4; it would be refused again" in str(trainer.error())
    assert one.counts[path] == 1


def test_a_server_with_another_tokenizer_is_an_error_at_once(
    trainer: Trainer, one: Scripted
) -> None:
    one.answer = {**one.answer, "prompt_token_ids": [1, 2, 3]}
    error = trainer.error()
    assert isinstance(error, SpecError)
    assert one.counts[CHAT] == 1


def test_more_prompts_than_a_server_takes_at_once_wait(trainer: Trainer, one: Scripted) -> None:
    servers = replace(trainer.client._servers, concurrency=3)
    trainer.client._servers = servers
    assert len(trainer.sample(40)) == 40
    assert one.counts[CHAT] == 40
