"""How the API server is reached: a pod's service account, or a kubeconfig."""

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import kopf

from prism_api.errors import FieldProblem, SpecError

_TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_IN_POD = "https://kubernetes.default.svc"
_TOKEN_SECONDS = 60.0
"""A pod's token is replaced within its hour: it is read anew this often."""


class Connection:
    """Address, certificates and credentials."""

    def __init__(self, info: kopf.ConnectionInfo, token_file: Path | None = None) -> None:
        self.url = info.server.rstrip("/")
        self.ssl: ssl.SSLContext | bool = (
            _ssl_context(info) if info.server[:6] == "https:" else True
        )
        self._token, self._token_file = info.token, token_file
        self._basic = (info.username, info.password) if info.username and info.password else None
        self._read_at = time.monotonic()

    @classmethod
    def of(cls, info: kopf.ConnectionInfo) -> "Connection":
        """As `login` found it: a pod's token is read anew now and then."""
        in_pod = info.server == _IN_POD
        return cls(info, _TOKEN_FILE if in_pod else None)

    def headers(self) -> Mapping[str, str]:
        """The credentials as they are now."""
        if self._token_file is not None and time.monotonic() - self._read_at > _TOKEN_SECONDS:
            self._token = self._token_file.read_text().strip()
            self._read_at = time.monotonic()
        if self._token:
            return {"Authorization": f"Bearer {self._token}"}
        if self._basic:
            pair = ":".join(self._basic).encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        return {}


def login() -> kopf.ConnectionInfo:
    """KUBECONFIG goes first, then the pod's service account, then ~/.kube/config; raises SpecError
    if there is none."""
    settings = kopf.OperatorSettings()
    named = bool(os.environ.get("KUBECONFIG"))
    info = kopf.login_with_kubeconfig(settings=settings) if named else None
    info = info or kopf.login_with_service_account(settings=settings)
    info = info or kopf.login_with_kubeconfig(settings=settings)
    if info is None:
        problem = "is not set, and this is no pod with a service account"
        raise SpecError([FieldProblem("KUBECONFIG", problem, "give the path of a kubeconfig")])
    return info


def _ssl_context(info: kopf.ConnectionInfo) -> ssl.SSLContext:
    authorities = base64.b64decode(info.ca_data).decode() if info.ca_data else None
    context = ssl.create_default_context(cafile=info.ca_path, cadata=authorities)
    if info.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    certificate = _file(info.certificate_path, info.certificate_data)
    if certificate:
        context.load_cert_chain(certificate, _file(info.private_key_path, info.private_key_data))
    return context


def _file(path: object, data: str | bytes | None) -> str | None:
    """Python's ssl reads certificates of a client from files only."""
    if path or not data:
        return str(path) if path else None
    with tempfile.NamedTemporaryFile("wb", prefix="prism-", delete=False) as file:
        file.write(base64.b64decode(data))
    return file.name
