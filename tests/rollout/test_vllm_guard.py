"""A real vLLM server lets in nobody without the token, and no weights that are damaged."""

import json
from pathlib import Path

import httpx2
import pytest

from prism_api.rollout import DIGEST_HEADER, OPEN_PATHS, WEIGHTS_PATH
from prism_store.store import DirectoryStore
from prism_trainer.rollouts import SamplingParams
from prism_trainer.rollouts.vllm_client import VllmClient
from rollout_servers import Served, build_client, build_requests
from served_models import mixed_rows

pytestmark = pytest.mark.vllm


def http(served: Served, with_token: bool) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {served.server.token}"} if with_token else {}
    return httpx2.Client(base_url=served.server.url, headers=headers, trust_env=False)


def test_every_route_but_two_needs_the_token(dense: Served) -> None:
    with http(dense, True) as known, http(dense, False) as unknown:
        routes = known.get("/openapi.json").json()["paths"]
        assert len(routes) > 10
        asked = [(path, method) for path, methods in routes.items() for method in methods]
        asked += [("/docs", "get"), ("/openapi.json", "get"), (WEIGHTS_PATH, "post")]
        for path, method in asked:
            status = unknown.request(method, path).status_code
            assert status == (200 if path in OPEN_PATHS else 401), (method, path)
        assert {unknown.get(path).status_code for path in OPEN_PATHS} == {200}


def test_routes_that_change_an_engine_are_not_there_at_all(dense: Served) -> None:
    with http(dense, True) as known:
        for path in ("/pause", "/resume", "/collective_rpc", "/update_weights", "/sleep"):
            assert known.post(path, json={}).status_code == 404, path


def client_at(served: Served, folder: Path, version: int) -> VllmClient:
    client = build_client([served.server], served.model(1), folder)
    client.update_weights(version)
    client.generate(build_requests(served.encoder, mixed_rows()[:1]), SamplingParams(2))
    return client


def test_damaged_weights_are_refused_by_name_and_the_old_ones_stay(
    dense: Served, tmp_path: Path
) -> None:
    client = client_at(dense, tmp_path, 3)
    before = client._weights
    client.update_weights(4)
    assert client._weights is not None
    store = DirectoryStore(client._weights.checkpoint.uri)
    name = "model.safetensors"
    store.put(name, store.get(name)[:-4] + b"\0\0\0\1")
    body = json.loads(client._weights.to_json())
    with http(dense, True) as known:
        answer = known.post(WEIGHTS_PATH, json=body, timeout=60)
        assert answer.status_code == 422
        assert f"v4/{name}: its content differs" in answer.json()["error"]["message"]
        assert before is not None
        assert known.get(WEIGHTS_PATH).json()["weights"] == json.loads(before.to_json())


def test_another_digest_is_refused_for_weights_and_for_answers(
    dense: Served, tmp_path: Path
) -> None:
    weights = client_at(dense, tmp_path, 5)._weights
    assert weights is not None
    body = json.loads(weights.to_json())
    body["checkpoint"]["digest"] = "0" * 64
    chat = {"model": "policy", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
    with http(dense, True) as known:
        refused = known.post(WEIGHTS_PATH, json=body, timeout=60)
        assert (refused.status_code, "was altered" in refused.text) == (422, True)
        statuses = [
            known.post(
                "/v1/chat/completions", json=chat, headers={DIGEST_HEADER: digest}
            ).status_code
            for digest in ("0" * 64, weights.checkpoint.digest)
        ]
    assert statuses == [409, 200]
