"""What a server is asked before it is used, what it is given, and why it may be refused."""

from pathlib import Path
from typing import Any

import pytest

from client_of_scripts import CHAT, LIMITS, STATE, UPDATE, Trainer, say
from prism_api.errors import SpecError
from prism_api.resources import DataSource, Rollout
from prism_api.rollout import TOKEN_VARIABLE, URLS_VARIABLE
from prism_trainer.distributed import Ranks
from prism_trainer.rollouts import Request
from prism_trainer.rollouts.vllm_client import Servers, check_versions
from prism_trainer.stages.run import build_context
from scripted_server import Scripted, scripted_server
from served_models import build_served_model
from stage_builders import rlvr_stage, stage_config


def test_a_server_gets_the_weights_before_the_first_request(
    trainer: Trainer, one: Scripted
) -> None:
    (completion,) = trainer.sample()
    assert completion.weight_version == 5
    assert one.state["weights"]["version"] == 5
    digest = one.state["weights"]["checkpoint"]["digest"]
    assert [h["x-prism-weights"] for h in one.headers if "x-prism-weights" in h] == [digest]


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


def test_a_server_with_another_tokenizer_is_an_error_at_once(
    trainer: Trainer, one: Scripted
) -> None:
    one.answer = {**one.answer, "prompt_token_ids": [1, 2, 3]}
    error = trainer.error()
    assert isinstance(error, SpecError)
    assert one.counts[CHAT] == 1
