"""A thin client of the Kubernetes API, for requests that outlive its restart, and for watches."""

import asyncio
import base64
import ssl
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
import yaml

Json = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"

_AGAIN = frozenset({429, 500, 502, 503, 504})
_TRIES = 240
_PAUSE_S = 0.25


class ApiError(Exception):
    """An answer that is no success: its HTTP status, Kubernetes reason and message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Kind:
    """A kind of object and where the API has it."""

    group: str
    """Path of its group and version, such as `apis/apps/v1`."""
    plural: str
    """Its resource."""
    name: str
    """As in `kind`."""

    def path(self, namespace: str | None, name: str = "", part: str = "") -> str:
        """Of one object, of a part of it such as `status`, or of all objects."""
        inside = f"/namespaces/{namespace}" if namespace else ""
        path = f"/{self.group}{inside}/{self.plural}"
        return "/".join(piece for piece in (path, name, part) if piece)


PODS = Kind("api/v1", "pods", "Pod")
CONFIG_MAPS = Kind("api/v1", "configmaps", "ConfigMap")
SECRETS = Kind("api/v1", "secrets", "Secret")
SERVICES = Kind("api/v1", "services", "Service")
JOBS = Kind("apis/kubeflow.org/v1", "pytorchjobs", "PyTorchJob")
DEPLOYMENTS = Kind("apis/apps/v1", "deployments", "Deployment")
POLICIES = Kind("apis/networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")


@dataclass(frozen=True)
class Credentials:
    """How a client shows the API server who it is, and knows the server."""

    token: str | None = None
    """Bearer token of a ServiceAccount."""
    certificate: tuple[Path, Path] | None = None
    """Files of a client certificate and of its key, PEM."""
    ca: Path | None = None
    """File of the certificate authority of the server, PEM; without it, the system's."""

    def tls(self) -> ssl.SSLContext:
        """Of connections to the server."""
        context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        if self.certificate:
            context.load_cert_chain(*map(str, self.certificate))
        return context

    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def from_kubeconfig(path: Path) -> tuple[str, Credentials]:
    """Address and credentials of the current context; what it holds inline goes into files beside
    it."""
    document = yaml.safe_load(path.read_text())
    context = _named(document["contexts"], document["current-context"])["context"]
    server = _named(document["clusters"], context["cluster"])["cluster"]
    user = _named(document["users"], context["user"])["user"]
    certificate, key = _file(user, "client-certificate"), _file(user, "client-key")
    pair = (certificate, key) if certificate and key else None
    ca = _file(server, "certificate-authority")
    return server["server"], Credentials(user.get("token"), pair, ca)


def _named(entries: list[Json], name: str) -> Json:
    return next(entry for entry in entries if entry["name"] == name)


def _file(holder: Json, field: str) -> Path | None:
    if inline := holder.get(f"{field}-data"):
        with tempfile.NamedTemporaryFile(suffix=".pem", delete=False) as file:
            file.write(base64.b64decode(inline))
        return Path(file.name)
    return Path(holder[field]) if field in holder else None


class Api:
    """An API server; every request is tried again while the server is away or overloaded, so a POST
    may find its own object there."""

    def __init__(self, url: str, credentials: Credentials, at_once: int = 32) -> None:
        self._url, self._credentials = url.rstrip("/"), credentials
        self.slots = asyncio.Semaphore(at_once)
        """To be taken around a request by those who send many."""
        self._tls: ssl.SSLContext | bool = True

    async def __aenter__(self) -> Self:
        if self._url.startswith("https:"):
            self._tls = self._credentials.tls()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            headers=self._credentials.headers(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=True,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()
        # Connections with TLS end a moment after their session.
        await asyncio.sleep(0.05)

    async def get(self, path: str, **params: str) -> Json:
        """A document."""
        return await self._persistently("GET", path, params=params)

    async def post(self, path: str, body: Json) -> Json:
        """Create an object."""
        return await self._persistently("POST", path, body)

    async def patch(self, path: str, body: Json, content_type: str = MERGE_PATCH) -> Json:
        """Change an object."""
        return await self._persistently("PATCH", path, body, content_type)

    async def delete(self, path: str, uid: str | None = None, grace_s: int | None = None) -> Json:
        """Ask for an object's deletion; with a UID, of no other object of its name."""
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        return await self._persistently("DELETE", path, body)

    async def _persistently(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        content_type: str = JSON,
        params: dict[str, str] | None = None,
    ) -> Json:
        for left in reversed(range(_TRIES)):
            try:
                return await self._once(method, path, body, content_type, params)
            except ApiError as error:
                if error.status not in _AGAIN or not left:
                    raise
            except (aiohttp.ClientError, TimeoutError):
                if not left:
                    raise
            await asyncio.sleep(_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    async def _once(
        self,
        method: str,
        path: str,
        body: Json | None,
        content_type: str,
        params: dict[str, str] | None,
    ) -> Json:
        async with self._session.request(
            method,
            self._url + path,
            data=None if body is None else orjson.dumps(body),
            headers={} if body is None else {"Content-Type": content_type},
            params=params,
        ) as response:
            content = await response.read()
            if response.status >= 400:
                raise _error(response.status, content)
            document: Json = orjson.loads(content)
            return document

    async def watch(self, path: str, **params: str) -> AsyncIterator[Json]:
        """Events of objects until the server ends the stream; raises ApiError where it refuses or
        sends an ERROR event, aiohttp.ClientError where the connection breaks."""
        query = {"watch": "1", "allowWatchBookmarks": "true", **params}
        async with self._session.get(self._url + path, params=query) as response:
            if response.status >= 400:
                raise _error(response.status, await response.read())
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield _event(line)


def _event(line: bytes) -> Json:
    event: Json = orjson.loads(line)
    if event["type"] == "ERROR":
        status = event["object"]
        raise ApiError(status.get("code", 0), status.get("reason", ""), status.get("message", ""))
    return event


def _error(status: int, content: bytes) -> ApiError:
    try:
        document = orjson.loads(content)
        return ApiError(status, document.get("reason", ""), document.get("message", ""))
    except (orjson.JSONDecodeError, AttributeError):
        return ApiError(status, "", content[:200].decode(errors="replace"))
