"""The servers behind the names that a trainer is given."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from prism_api.errors import RolloutError
from prism_trainer.rollouts.addresses import known_urls, server_urls
from prism_trainer.rollouts.faults import Budget

BUDGET = Budget(outage_seconds=0.6)
URL = "http://run-rlvr-rollout:8000"


def answers(port: int, *addresses: str) -> list[Any]:
    """As getaddrinfo gives them."""
    families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
    return [
        (family, socket.SOCK_STREAM, 6, "", (address, port))
        for family, address in zip(families, addresses, strict=True)
    ]


def names(monkeypatch: pytest.MonkeyPatch, *each: Sequence[str]) -> list[str]:
    """Let the name server say these addresses, one after the other, the last ones for ever; returns
    the hosts that it was asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        found = each[min(len(asked), len(each)) - 1]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers(port, *found)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_with_two_addresses_is_two_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names(monkeypatch, ["10.0.0.9", "10.0.0.7"])
    urls = asyncio.run(server_urls([URL], BUDGET))
    assert urls == ("http://10.0.0.7:8000", "http://10.0.0.9:8000")
    assert asked == ["run-rlvr-rollout"]


def test_a_server_with_an_address_of_each_family_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["fd00::7", "10.0.0.7"])
    assert asyncio.run(server_urls([URL], BUDGET)) == ("http://10.0.0.7:8000",)


def test_a_cluster_without_ipv4_has_servers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["fd00::7"])
    assert asyncio.run(server_urls([URL], BUDGET)) == ("http://[fd00::7]:8000",)


def test_addresses_stay_as_they_are_and_keep_their_order() -> None:
    urls = ("http://127.0.0.1:8002", "http://127.0.0.1:8001")
    assert asyncio.run(server_urls(urls, BUDGET)) == urls


def test_servers_that_are_not_there_yet_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, [], ["10.0.0.7"])
    assert asyncio.run(server_urls([URL], BUDGET)) == ("http://10.0.0.7:8000",)


def test_a_name_that_stays_unknown_is_an_outage_that_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names(monkeypatch, [])
    with pytest.raises(RolloutError, match=f"{URL}: look up: .*no rollout server for 1 s"):
        asyncio.run(server_urls([URL], BUDGET))


def test_who_only_asks_whoever_is_there_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names(monkeypatch, [], ["10.0.0.7"])
    urls = asyncio.run(known_urls(["http://gone:8000", URL]))
    assert urls == ("http://10.0.0.7:8000",)
    assert sorted(asked) == ["gone", "run-rlvr-rollout"]
