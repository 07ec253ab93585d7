"""Who is let in, and to which weights; the application behind is a stub that always answers."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi import Answer, call
from prism_api.checkpoint import CheckpointRef
from prism_api.errors import SpecError, StoreError
from prism_api.rollout import (
    DIGEST_HEADER,
    OPEN_PATHS,
    TOKEN_FILE_VARIABLE,
    TOKEN_VARIABLE,
    Weights,
)
from prism_rollout.middleware import FOLDER_VARIABLE, MODEL_VARIABLE, RolloutMiddleware
from prism_rollout.update import UpdateFailed

TOKEN = "a-token"
KNOWN = {"Authorization": f"Bearer {TOKEN}"}
WEIGHTS = Weights(version=4, checkpoint=CheckpointRef(uri="file:///w/v4", digest="4" * 64))
ENGINE = SimpleNamespace(model_config=SimpleNamespace(max_model_len=512))


async def vllm_stub(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"from vllm"})


class UpdaterStub:
    """Takes any weights, or raises what it was given."""

    def __init__(self) -> None:
        self.current: Weights | None = None
        self.error: Exception | None = None
        self.is_changing = False
        self.requests = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        self.requests += 1
        yield
        self.requests -= 1

    async def update(self, engine: object, wanted: Weights) -> None:
        assert engine is ENGINE
        if self.error is not None:
            raise self.error
        self.current = wanted


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (TOKEN_VARIABLE, TOKEN_FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(MODEL_VARIABLE, str(tmp_path))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.32.0"))
    return monkeypatch


@pytest.fixture
def updater() -> UpdaterStub:
    return UpdaterStub()


@pytest.fixture
def app(environment: pytest.MonkeyPatch, updater: UpdaterStub) -> RolloutMiddleware:
    environment.setenv(TOKEN_VARIABLE, TOKEN)
    app = RolloutMiddleware(vllm_stub)
    app._updater = updater  # type: ignore[assignment]
    return app


def was_let_in(answer: Answer) -> bool:
    assert answer.status in (200, 401)
    return answer.status == 200


PATHS = [
    "/v1/chat/completions",
    "/v1/models",
    "/inference/v1/generate",
    "/pause",
    "/collective_rpc",
    "/prism/weights",
    "/version",
    "/ping",
    "/",
    "/health/",
    "//health",
    "/health/../v1/models",
    "/metrics/x",
    "/HEALTH",
    "",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_needs_the_token(app: RolloutMiddleware, path: str) -> None:
    assert not was_let_in(call(app, path, engine=ENGINE))
    assert was_let_in(call(app, path, KNOWN, engine=ENGINE))


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_health_and_metrics_do_not(app: RolloutMiddleware, path: str) -> None:
    assert {"/health", "/metrics"} == OPEN_PATHS
    assert call(app, path).body == "from vllm"


@pytest.mark.parametrize(
    "given_header",
    [
        "Bearer a-toke",
        "Bearer a-tokens",
        "Bearer A-TOKEN",
        "Bearer  a-token",
        "bearer a-token",
        "a-token",
        "Basic a-token",
        "Bearer ",
        "",
        "Bearer \u00e4",
    ],
)
def test_another_token_is_refused(app: RolloutMiddleware, given_header: str) -> None:
    answer = call(app, "/v1/models", {"Authorization": given_header})
    assert answer.status == 401
    assert TOKEN not in answer.body


@given(path=st.text(), token=st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_but_the_token_opens_any_other_path(
    app: RolloutMiddleware, path: str, token: str
) -> None:
    if path not in OPEN_PATHS and token != f"Bearer {TOKEN}":
        assert call(app, path, {"Authorization": token}).status == 401


def test_a_web_socket_needs_the_token_too(app: RolloutMiddleware) -> None:
    refused = call(app, "/v1/realtime", kind="websocket")
    assert [m["type"] for m in refused.messages] == ["websocket.close"]
    assert call(app, "/v1/realtime", KNOWN, kind="websocket").body == "from vllm"


def test_no_server_is_built_without_a_token(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="PRISM_ROLLOUT_TOKEN: holds no token"):
        RolloutMiddleware(vllm_stub)


def test_the_token_may_lie_in_a_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    environment.setenv(TOKEN_FILE_VARIABLE, str(tmp_path / "token"))
    environment.setenv(TOKEN_VARIABLE, "another")
    assert call(RolloutMiddleware(vllm_stub), "/v1/models", KNOWN).status == 200


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "cannot be read"), ("", "holds no token"), ("a b", "visible ASCII")],
)
def test_a_token_file_that_is_no_use_is_named(
    environment: pytest.MonkeyPatch, tmp_path: Path, content: str | None, complaint: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    environment.setenv(TOKEN_FILE_VARIABLE, str(path))
    with pytest.raises(SpecError, match=f"{TOKEN_FILE_VARIABLE}: .*{complaint}"):
        RolloutMiddleware(vllm_stub)


def test_a_server_says_what_it_is_and_what_it_has(
    app: RolloutMiddleware, updater: UpdaterStub
) -> None:
    answer = call(app, "/prism/weights", KNOWN, engine=ENGINE)
    assert json.loads(answer.body) == {"vllm": "0.32.0", "maxModelLen": 512, "weights": None}
    updater.current = WEIGHTS
    answer = call(app, "/prism/weights", KNOWN, engine=ENGINE)
    assert json.loads(answer.body)["weights"]["version"] == 4


def post(app: RolloutMiddleware, body: bytes) -> Answer:
    return call(app, "/prism/weights", KNOWN, "POST", body, engine=ENGINE)


def test_an_update_answers_with_the_weights_in_use(app: RolloutMiddleware) -> None:
    answer = post(app, WEIGHTS.to_json().encode())
    assert answer.status == 200
    assert json.loads(answer.body)["weights"] == json.loads(WEIGHTS.to_json())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreError("file:///w/v4/model.safetensors: damaged"), 422),
        (UpdateFailed("load: took longer"), 500),
    ],
)
def test_an_update_that_fails_says_why(
    app: RolloutMiddleware, updater: UpdaterStub, error: Exception, status: int
) -> None:
    updater.error = error
    answer = post(app, WEIGHTS.to_json().encode())
    assert answer.status == status
    assert json.loads(answer.body)["error"]["message"] == str(error)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{", "is not JSON"),
        (b"{}", "version: is missing"),
        (b'{"version": -1}', "version: -1 is not valid"),
        (b" " * 70_000, "has more than 65536 bytes"),
    ],
)
def test_a_request_that_is_no_update_is_refused(
    app: RolloutMiddleware, body: bytes, complaint: str
) -> None:
    answer = post(app, body)
    assert answer.status == 400
    assert complaint in answer.body


def test_other_methods_than_get_and_post_are_refused(app: RolloutMiddleware) -> None:
    assert call(app, "/prism/weights", KNOWN, "DELETE", engine=ENGINE).status == 405


@pytest.mark.parametrize(
    ("loaded", "asked_for", "status"),
    [
        (WEIGHTS, "4" * 64, 200),
        (WEIGHTS, "5" * 64, 409),
        (None, "4" * 64, 409),
        (WEIGHTS, None, 200),
        (None, None, 200),
        (None, "", 200),
    ],
)
def test_who_names_weights_is_answered_by_them_or_not_at_all(
    app: RolloutMiddleware,
    updater: UpdaterStub,
    loaded: Weights | None,
    asked_for: str | None,
    status: int,
) -> None:
    updater.current = loaded
    headers = KNOWN | ({} if asked_for is None else {"X-Prism-Weights": asked_for})
    answer = call(app, "/v1/chat/completions", headers, "POST")
    assert answer.status == status
    if status == 200:
        assert answer.headers[DIGEST_HEADER] == (loaded.checkpoint.digest if loaded else "")


def test_an_answer_names_the_weights_in_use_when_it_begins(
    environment: pytest.MonkeyPatch, updater: UpdaterStub
) -> None:
    """An update comes after the request was let in and before its turn."""

    async def overtaken(scope: Any, receive: Any, send: Any) -> None:
        await updater.update(ENGINE, WEIGHTS)
        await vllm_stub(scope, receive, send)

    environment.setenv(TOKEN_VARIABLE, TOKEN)
    app = RolloutMiddleware(overtaken)
    app._updater = updater  # type: ignore[assignment]
    updater.current = Weights(version=3, checkpoint=CheckpointRef(uri="file:///3", digest="3" * 64))
    headers = KNOWN | {DIGEST_HEADER: "3" * 64}
    answer = call(app, "/v1/chat/completions", headers, "POST")
    assert (answer.status, answer.headers[DIGEST_HEADER]) == (200, "4" * 64)


@pytest.mark.parametrize("headers", [KNOWN, KNOWN | {DIGEST_HEADER: "4" * 64}])
def test_nobody_is_let_in_while_weights_are_replaced(
    app: RolloutMiddleware, updater: UpdaterStub, headers: dict[str, str]
) -> None:
    updater.current, updater.is_changing = WEIGHTS, True
    answer = call(app, "/v1/chat/completions", headers, "POST")
    assert (answer.status, "are being replaced" in answer.body) == (503, True)
    refused = call(app, "/v1/realtime", KNOWN, kind="websocket")
    assert [m["type"] for m in refused.messages] == ["websocket.close"]
    assert call(app, "/prism/weights", KNOWN, engine=ENGINE).status == 200
    assert call(app, "/health").status == 200


@pytest.mark.parametrize("headers", [KNOWN, KNOWN | {DIGEST_HEADER: "4" * 64}])
def test_an_update_knows_of_every_request_until_its_answer_has_ended(
    environment: pytest.MonkeyPatch, updater: UpdaterStub, headers: dict[str, str]
) -> None:
    seen = []

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        await vllm_stub(scope, receive, send)
        seen.append(updater.requests)

    environment.setenv(TOKEN_VARIABLE, TOKEN)
    app = RolloutMiddleware(counting)
    app._updater = updater  # type: ignore[assignment]
    updater.current = WEIGHTS
    assert call(app, "/v1/chat/completions", headers, "POST").status == 200
    assert (seen, updater.requests) == ([1], 0)
