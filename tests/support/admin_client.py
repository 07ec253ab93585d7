"""A small client of the Kubernetes API for tests: blocking, of all rights, exact about errors."""

import json
import ssl
from collections.abc import Mapping
from functools import cache
from types import TracebackType
from typing import Any, Literal

import httpx2

Document = dict[str, Any]
PatchKind = Literal["merge-patch", "strategic-merge-patch", "json-patch", "apply-patch"]
FIELD_MANAGER = "tests"


class ApiError(Exception):
    """What the API server refused, with its HTTP status and reason (such as NotFound)."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code, self.reason = code, reason


def resource_path(
    api_version: str,
    plural: str,
    namespace: str | None = None,
    name: str | None = None,
    subresource: str | None = None,
) -> str:
    """The URL path of a collection, an object or a part of it, such as `status`."""
    parts = ["apis" if "/" in api_version else "api", api_version]
    parts += ["namespaces", namespace] if namespace else []
    return "/" + "/".join([*parts, plural, *filter(None, [name, subresource])])


class AdminClient:
    """Objects as plain dictionaries; connections are kept. Refusals are ApiErrors.

    Objects are addressed as in URLs: `get("apps/v1", "deployments", "web", namespace)`.
    """

    def __init__(self, url: str, token: str, authority: ssl.SSLContext) -> None:
        self._http = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            verify=authority,
            trust_env=False,
            timeout=60,
        )
        self._plural = cache(self._discovered_plural)

    def __enter__(self) -> "AdminClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def answers(self, path: str) -> bool:
        """Whether a GET of the path succeeds now."""
        try:
            return self._http.get(path).is_success
        except httpx2.TransportError:
            return False

    def serves(self, api_version: str, kind: str) -> bool:
        """Whether discovery names the kind and its objects can be listed now."""
        try:
            plural = self._plurals(api_version).get(kind)
        except ApiError:
            return False
        return plural is not None and self.answers(resource_path(api_version, plural))

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Document:
        """Any request, sent once; `body` goes as JSON."""
        response = self._http.request(
            method,
            path,
            content=None if body is None else json.dumps(body).encode(),
            params=dict(query or {}),
            headers={"Content-Type": content_type},
        )
        if response.is_error:
            raise _error(response)
        answer: Document = response.json() if response.text.startswith("{") else {}
        return answer

    def get(
        self, api_version: str, plural: str, name: str, namespace: str | None = None
    ) -> Document:
        """An object."""
        return self.request("GET", resource_path(api_version, plural, namespace, name))

    def find(
        self, api_version: str, plural: str, name: str, namespace: str | None = None
    ) -> Document | None:
        """An object, or None where there is none."""
        try:
            return self.get(api_version, plural, name, namespace)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def list(
        self, api_version: str, plural: str, namespace: str | None = None, labels: str = ""
    ) -> list[Document]:
        """All objects of a namespace, or of all namespaces, that a label selector chooses."""
        query = {"labelSelector": labels} if labels else {}
        path = resource_path(api_version, plural, namespace)
        items: list[Document] = self.request("GET", path, query=query)["items"]
        return items

    def create(self, document: Document) -> Document:
        """Create an object that says its apiVersion, kind and, unless cluster-wide, namespace."""
        return self.request("POST", self._path(document, named=False), document)

    def apply(self, document: Document, subresource: str | None = None) -> Document:
        """Create it, or set the fields it states (server-side apply, conflicts won)."""
        return self.request(
            "PATCH",
            self._path(document, named=True, subresource=subresource),
            document,
            {"fieldManager": FIELD_MANAGER, "force": "true"},
            "application/apply-patch+yaml",
        )

    def patch(
        self,
        api_version: str,
        plural: str,
        name: str,
        namespace: str | None,
        patch: object,
        *,
        subresource: str | None = None,
        kind: PatchKind = "merge-patch",
    ) -> Document:
        """Change an object or, with `subresource="status"`, its status."""
        path = resource_path(api_version, plural, namespace, name, subresource)
        return self.request("PATCH", path, patch, content_type=f"application/{kind}+json")

    def delete(
        self,
        api_version: str,
        plural: str,
        name: str,
        namespace: str | None = None,
        *,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
        grace_s: int | None = None,
    ) -> None:
        """Ask for an object's end; one that has ended already is no error."""
        body: Document = {"propagationPolicy": propagation}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            self.request("DELETE", resource_path(api_version, plural, namespace, name), body)
        except ApiError as error:
            if error.code != 404:
                raise

    def _path(self, document: Document, *, named: bool, subresource: str | None = None) -> str:
        api_version, metadata = document["apiVersion"], document["metadata"]
        return resource_path(
            api_version,
            self._plural(api_version, document["kind"]),
            metadata.get("namespace"),
            metadata["name"] if named else None,
            subresource,
        )

    def _discovered_plural(self, api_version: str, kind: str) -> str:
        if not (plural := self._plurals(api_version).get(kind)):
            raise LookupError(f"the API server has no kind {kind} in {api_version}")
        return plural

    def _plurals(self, api_version: str) -> dict[str, str]:
        path = f"/{'apis' if '/' in api_version else 'api'}/{api_version}"
        resources = self.request("GET", path)["resources"]
        return {one["kind"]: one["name"] for one in resources if "/" not in one["name"]}


def _error(response: httpx2.Response) -> ApiError:
    try:
        status = response.json()
    except ValueError:
        return ApiError(response.status_code, response.reason_phrase, response.text)
    return ApiError(response.status_code, status.get("reason", ""), status.get("message", ""))
