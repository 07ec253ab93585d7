"""A thin client of the Kubernetes API on aiohttp and orjson.

Not the official one: an operator's processor time is mostly spent on requests, and those of the
official client cost more (`make bench-operator` prints both). No retries in here: every caller is
level-triggered and comes again.
"""

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import aiohttp
import orjson

from prism_api.names import MANAGER
from prism_operator.cluster.connection import Connection
from prism_operator.cluster.errors import Unavailable, error_of

Document = dict[str, Any]

_REQUEST_SECONDS = 30.0
_AT_ONCE = 64
_KEPT_SECONDS = 60.0
"""A new connection costs a TLS handshake; the API server closes what is idle for 90 s."""
_ACTIONS = {"GET": "get", "POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
_METADATA_ONLY = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class RequestObserver(Protocol):
    """Whoever counts requests."""

    def __call__(self, verb: str, path: str, code: int, seconds: float) -> None: ...


class Client:
    """Requests to one API server over a pool of kept connections.

    Every method raises a ClusterError for whatever is not a success.
    """

    def __init__(
        self,
        connection: Connection,
        observer: RequestObserver = lambda verb, path, code, seconds: None,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_write` is asked before each write: an operator that has lost its Lease must not."""
        self._connection, self._observer, self._may_write = connection, observer, may_write
        self._session = _session(connection, _AT_ONCE)
        # Watches hold their connections: six for each namespace that is served.
        self._watching = _session(connection, 0)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        await self._watching.close()

    async def get(self, path: str) -> Document:
        """One object."""
        return await self._request("GET", path)

    async def list(
        self, path: str, selector: str, fields: str = "", token: str = "", *, metadata: bool = False
    ) -> Document:
        """A page of objects, as the API server has them now (no cached list)."""
        query = {"labelSelector": selector, "fieldSelector": fields, "limit": "500"}
        accept = _METADATA_ONLY.format("List") if metadata else ""
        query["continue"] = token
        return await self._request("GET", path, query, accept=accept, action="list")

    async def create(self, path: str, manifest: Mapping[str, Any]) -> Document:
        """A new object; AlreadyExists if there is one of its name, whoever made it."""
        return await self._request("POST", path, {"fieldManager": MANAGER}, manifest)

    async def apply(self, path: str, manifest: Mapping[str, Any]) -> Document:
        """Server-side apply under our own field manager."""
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self._request("PATCH", path, query, manifest, "application/apply-patch+yaml")

    async def merge_patch(self, path: str, patch: Mapping[str, Any]) -> Document:
        """Change the members that the patch names; null removes one."""
        query = {"fieldManager": MANAGER}
        return await self._request("PATCH", path, query, patch, "application/merge-patch+json")

    async def replace(self, path: str, document: Mapping[str, Any]) -> Document:
        """Put a whole object; its resourceVersion must still be the newest."""
        return await self._request("PUT", path, {"fieldManager": MANAGER}, document)

    async def delete(self, path: str, uid: str) -> None:
        """Delete the object of this UID, and in the background all that it owns."""
        options = {
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        await self._request("DELETE", path, body=options)

    async def watch(
        self,
        path: str,
        selector: str,
        version: str,
        *,
        seconds: float,
        idle_seconds: float,
        metadata: bool = False,
    ) -> AsyncIterator[Document]:
        """Events from a place in the history on, bookmarks included, for so many seconds, or until
        the server ends it; raises Unavailable if it says nothing for `idle_seconds`."""
        query = {
            "labelSelector": selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, math.ceil(seconds))),
        }
        accept = _METADATA_ONLY.format("") if metadata else "application/json"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=idle_seconds)
        try:
            async with self._watching.get(
                self._connection.url + path,
                params=query,
                headers={"Accept": accept, **self._connection.headers()},
                timeout=timeout,
            ) as answer:
                if answer.status != 200:
                    raise _error("WATCH", path, answer, await answer.read())
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield orjson.loads(line)
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            raise Unavailable(f"WATCH {path}", 0, _said(error)) from error

    async def _request(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        accept: str = "",
        action: str = "",
    ) -> Document:
        """`action` is the verb as RBAC and metrics name it, where the method does not tell."""
        action = action or _ACTIONS[verb]
        if verb != "GET" and not self._may_write():
            raise Unavailable(f"{verb} {path}", 0, "not sent: this operator does not lead any more")
        started = time.perf_counter()
        headers = {"Accept": accept or "application/json", **self._connection.headers()}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._session.request(
                verb,
                self._connection.url + path,
                params={key: value for key, value in (query or {}).items() if value},
                data=orjson.dumps(body) if body is not None else None,
                headers=headers,
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._observer(action, path, 0, time.perf_counter() - started)
            raise Unavailable(f"{verb} {path}", 0, _said(error)) from error
        self._observer(action, path, answer.status, time.perf_counter() - started)
        if answer.status >= 300:
            raise _error(verb, path, answer, content)
        try:
            document: Document = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise Unavailable(f"{verb} {path}", 0, f"cut off: {error}") from error
        return document


def _session(connection: Connection, limit: int) -> aiohttp.ClientSession:
    """Of at most so many connections; 0: any number."""
    connector = aiohttp.TCPConnector(
        ssl=connection.ssl, limit=limit, keepalive_timeout=_KEPT_SECONDS
    )
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)


def _error(verb: str, path: str, answer: aiohttp.ClientResponse, content: bytes) -> Exception:
    try:
        status = orjson.loads(content)
    except orjson.JSONDecodeError:
        status = {"message": content.decode(errors="replace")}
    if not isinstance(status, dict):
        status = {}
    retry_after = answer.headers.get("Retry-After", "")
    return error_of(f"{verb} {path}", answer.status, status, retry_after)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
