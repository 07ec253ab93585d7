"""A real Kubernetes cluster without nodes for tests: etcd, API server and controller manager.

Everything that the API decides is real: validation, RBAC, admission, garbage collection, quotas,
Deployments down to their pods. No pod runs; a test plays the kubelet through `pods/status`.
"""

import contextlib
import json
import secrets
import ssl
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml

from admin_client import AdminClient
from cluster_binaries import ClusterFiles, cluster_files
from cluster_processes import ClusterFolder, ClusterProcess, remove_leftovers
from control_plane import AUDIT_POLICY, ControlPlane, users_csv
from prism_operator.local.servers import port_of, reserved_port

READY_SECONDS = 120.0
Found = TypeVar("Found")


class ApiCluster:
    """A running cluster; `with ApiCluster() as cluster` ends it. One session may have several.

    Its processes end with the session, however that ends.
    """

    def __init__(self, crds: Sequence[Path] = ()) -> None:
        """Start with the PyTorchJob CRD and others; returns when controllers work, in seconds."""
        remove_leftovers()
        self._files: ClusterFiles = cluster_files()
        self._folder = ClusterFolder()
        self.folder = self._folder.path
        """Logs (`*.log`), data and kubeconfigs."""
        self._ports = [reserved_port() for _ in range(3)]
        self._plane = ControlPlane(self.folder, *map(port_of, self._ports))
        self.url = self._plane.url
        self.certificate_authority = self._plane.certificate
        """What clients verify the API server with (PEM)."""
        self._admin_token, self._manager_token = secrets.token_hex(), secrets.token_hex()
        self.admin_kubeconfig = self._kubeconfig("admin", self._admin_token)
        """A kubeconfig with all rights."""
        self._processes: dict[str, ClusterProcess] = {}
        # The kernel ends processes with the thread that started them, so this one does: whoever
        # restarts the API server may be a thread that ends soon.
        self._starter = ThreadPoolExecutor(max_workers=1)
        self._admin: AdminClient | None = None
        try:
            self._start(crds)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "ApiCluster":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes and remove the folder; nothing of the cluster is left."""
        if self._admin:
            self._admin.close()
        for process in reversed(self._processes.values()):
            process.kill()
        self._starter.shutdown()
        for holder in self._ports:
            holder.close()
        self._folder.remove()

    # --- what tests use ---

    @property
    def admin(self) -> AdminClient:
        """The API with all rights."""
        assert self._admin is not None, "the cluster has not started"
        return self._admin

    def kubeconfig_for(self, namespace: str, service_account: str) -> Path:
        """A kubeconfig with the rights of a ServiceAccount, by a fresh token for a day."""
        return self._kubeconfig(
            f"{namespace}.{service_account}",
            self.token_for(namespace, service_account),
            namespace,
        )

    def token_for(self, namespace: str, service_account: str, seconds: int = 86400) -> str:
        """A token of a ServiceAccount from the TokenRequest API, for ten minutes at least."""
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        token: str = self.admin.request("POST", path, request)["status"]["token"]
        return token

    def requests_of(self, namespace: str, service_account: str) -> list[dict[str, Any]]:
        """Every request that a ServiceAccount has made, as the API server's audit log has it."""
        user = f"system:serviceaccount:{namespace}:{service_account}"
        lines = self._plane.audit_log.read_text().splitlines()
        events = (json.loads(line) for line in lines if user in line)
        return [event for event in events if event["user"]["username"] == user]

    def deletions_in(self, namespace: str, prefix: str = "") -> list[str]:
        """Who asked for the end of what, and when, of names that begin so: a line each."""
        lines = self._plane.audit_log.read_text().splitlines()
        events = (json.loads(line) for line in lines if namespace in line and '"delete' in line)
        return [
            f"{event['requestReceivedTimestamp'][11:23]} {event['user']['username']} "
            f"{event['verb']}s {about['resource']}/{about.get('name', '')}: "
            f"{event.get('responseStatus', {}).get('code')}"
            for event in events
            if (about := event.get("objectRef", {})).get("namespace") == namespace
            and event["verb"].startswith("delete")
            and about.get("name", "").startswith(prefix)
        ]

    def kubectl(
        self,
        *arguments: str | Path,
        input: str | None = None,  # noqa: A002 (as subprocess names it)
        kubeconfig: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """kubectl, as administrator unless another kubeconfig is given; look at its returncode."""
        return subprocess.run(
            [
                self._files.programs["kubectl"],
                f"--kubeconfig={kubeconfig or self.admin_kubeconfig}",
                f"--cache-dir={self.folder / 'kubectl'}",
                *arguments,
            ],
            input=input,
            capture_output=True,
            text=True,
        )

    def apply_yaml(self, text: str) -> None:
        """Apply every document of a YAML text, in its order (server-side apply)."""
        for document in _yaml_documents(text):
            self.admin.apply(document)

    def install_crds(self, manifests: Iterable[Path]) -> None:
        """Apply CustomResourceDefinitions and wait until they are served.

        The garbage collector would notice new kinds only after half a minute, so it starts anew.
        """
        for manifest in manifests:
            for document in _yaml_documents(manifest.read_text()):
                self.admin.apply(document)
                self._wait_until_served(document)
        if "kube-controller-manager" in self._processes:
            self.restart_controller_manager()

    def restart_controller_manager(self) -> None:
        """A crash and a start; the garbage collector looks at everything anew."""
        with self.controllers_away():
            pass

    @contextlib.contextmanager
    def controllers_away(self) -> Iterator[None]:
        """Without the controller manager; afterwards another one starts."""
        self._processes["kube-controller-manager"].kill()
        del self._processes["kube-controller-manager"]
        yield
        self._start_controller_manager()

    def new_namespace(self) -> str:
        """A namespace of a name of its own, in which pods can be created."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self._wait("the namespace's default ServiceAccount", lambda: self._default_account(name))
        return name

    def delete_namespace(self, name: str) -> None:
        """Ask for a namespace's end; what is in it goes a little later."""
        self.admin.delete("v1", "namespaces", name)

    # --- faults ---

    def kill_apiserver(self) -> None:
        """End the API server like a crash: connections are cut, new ones refused."""
        self._processes["kube-apiserver"].kill()

    def start_apiserver(self) -> None:
        """Start the killed API server at the same address and wait until it is ready."""
        self._start_apiserver()

    def restart_apiserver(self) -> None:
        """A crash and a start, with the same address and data."""
        self.kill_apiserver()
        self.start_apiserver()

    def pause(self, name: str = "kube-apiserver") -> None:
        """Let a process hang; kube-apiserver, etcd or kube-controller-manager."""
        self._processes[name].pause()

    def resume(self, name: str = "kube-apiserver") -> None:
        """Let it go on."""
        self._processes[name].resume()

    def pids(self) -> dict[str, int]:
        """The process ids by program, for measurements."""
        return {name: process.pid for name, process in self._processes.items()}

    # --- how it starts ---

    def _start(self, crds: Sequence[Path]) -> None:
        self._launch("etcd", self._plane.etcd())
        self._start_apiserver()
        self.install_crds([self._files.pytorchjob_crd, *crds])
        self._start_controller_manager()
        self._wait("the controllers", lambda: self._default_account("default"))

    def _start_apiserver(self) -> None:
        self._plane.audit_policy.write_text(AUDIT_POLICY)
        users = self._private("users.csv", users_csv(self._admin_token, self._manager_token))
        self._launch("kube-apiserver", self._plane.apiserver(users))
        self._wait("kube-apiserver", self._apiserver_ready)

    def _apiserver_ready(self) -> bool:
        if not self._plane.key.exists():  # written after the certificate, at the first start
            return False
        if self._admin is None:
            authority = ssl.create_default_context(cafile=str(self.certificate_authority))
            self._admin = AdminClient(self.url, self._admin_token, authority)
        return self._admin.answers("/readyz")

    def _start_controller_manager(self) -> None:
        kubeconfig = self._kubeconfig("controller-manager", self._manager_token)
        self._launch("kube-controller-manager", self._plane.controller_manager(kubeconfig))

    def _launch(self, name: str, arguments: Sequence[str]) -> None:
        command = [str(self._files.programs[name]), *arguments]
        log = self.folder / f"{name}.log"
        self._processes[name] = self._starter.submit(ClusterProcess, command, log).result()

    def _kubeconfig(self, name: str, token: str, namespace: str = "default") -> Path:
        document = self._plane.kubeconfig(token, namespace)
        return self._private(f"{name}.kubeconfig", yaml.safe_dump(document))

    def _private(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    # --- waiting ---

    def _wait(self, what: str, found: Callable[[], Found]) -> Found:
        """Ask until there is an answer; an ended process is an error at once."""

        def ask() -> Found:
            for process in self._processes.values():
                process.check()
            return found()

        try:
            return wait_for(what, ask, READY_SECONDS)
        except AssertionError as error:
            logs = [process.last_lines() for process in self._processes.values()]
            raise AssertionError("\n\n".join([str(error), *logs])) from None

    def _default_account(self, namespace: str) -> bool:
        return bool(self.admin.find("v1", "serviceaccounts", "default", namespace))

    def _wait_until_served(self, crd: dict[str, Any]) -> None:
        spec, kind = crd["spec"], crd["spec"]["names"]["kind"]
        for version in (version["name"] for version in spec["versions"] if version["served"]):
            api_version = f"{spec['group']}/{version}"
            self._wait(f"{kind} of {api_version}", partial(self.admin.serves, api_version, kind))


def wait_for(what: str, found: Callable[[], Found], seconds: float = 60.0) -> Found:
    """Ask until the answer is truthy and return it; AssertionError names `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.02)
    return answer


def _yaml_documents(text: str) -> list[dict[str, Any]]:
    # The C loader where there is one: the CRD of 645 KB takes the other one seconds.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(text, loader) if document]
