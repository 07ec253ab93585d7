"""How the programs of a test cluster are called: pure functions of a folder and three ports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTROLLER_MANAGER = "system:kube-controller-manager"
AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [delete, deletecollection]
- level: None
  userGroups: ["system:serviceaccounts:kube-system"]
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
"""


@dataclass(frozen=True)
class ControlPlane:
    """Where a control plane has its files and listens (loopback)."""

    folder: Path
    api_port: int
    etcd_port: int
    etcd_peer_port: int

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def certificate(self) -> Path:
        """What the API server shows and clients verify it with (PEM); it makes it itself."""
        return self.folder / "apiserver.crt"

    @property
    def key(self) -> Path:
        """Its key, which signs the tokens of ServiceAccounts as well."""
        return self.certificate.with_suffix(".key")

    @property
    def audit_policy(self) -> Path:
        """What is written to the audit log: AUDIT_POLICY."""
        return self.folder / "audit.yaml"

    @property
    def audit_log(self) -> Path:
        """Each request of ServiceAccounts other than the cluster's own, and everybody's deletions:
        a line of JSON each."""
        return self.folder / "audit.log"

    def etcd(self) -> list[str]:
        """The arguments of etcd."""
        client = f"http://127.0.0.1:{self.etcd_port}"
        peer = f"http://127.0.0.1:{self.etcd_peer_port}"
        return [
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            f"--quota-backend-bytes={8 << 30}",
            "--log-level=warn",
        ]

    def apiserver(self, users: Path) -> list[str]:
        """The arguments of kube-apiserver; `users` is a file of `users_csv`."""
        return [
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--cert-dir={self.folder}",
            f"--token-auth-file={users}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self.api_port}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--service-account-key-file={self.key}",
            f"--service-account-signing-key-file={self.key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            # No limit on requests: load tests measure the operator, not the server's patience.
            "--enable-priority-and-fairness=false",
            "--max-requests-inflight=0",
            "--max-mutating-requests-inflight=0",
            "--profiling=false",
            # As on clusters where only who may finalise an owner may block its deletion.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            f"--audit-policy-file={self.audit_policy}",
            f"--audit-log-path={self.audit_log}",
        ]

    def controller_manager(self, kubeconfig: Path) -> list[str]:
        """The arguments of kube-controller-manager: all controllers but those that judge nodes."""
        return [
            f"--kubeconfig={kubeconfig}",
            f"--root-ca-file={self.certificate}",
            f"--service-account-private-key-file={self.key}",
            "--use-service-account-credentials",
            # Tests play the nodes: nobody else decides that one is dead and its pods are lost.
            "--controllers=*,-node-lifecycle-controller,-pod-garbage-collector-controller",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=10000",
            "--kube-api-burst=10000",
            "--concurrent-namespace-syncs=20",
            "--concurrent-serviceaccount-token-syncs=20",
            "--profiling=false",
        ]

    def kubeconfig(self, token: str, namespace: str) -> dict[str, Any]:
        """What clients read, for one user."""
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        context = {"cluster": "test", "user": "test", "namespace": namespace}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": context}],
            "current-context": "test",
        }


def users_csv(admin_token: str, controller_manager_token: str) -> str:
    """The API server's own users: token, name, uid, groups."""
    return (
        f'{admin_token},admin,admin,"system:masters"\n'
        f"{controller_manager_token},{CONTROLLER_MANAGER},{CONTROLLER_MANAGER}\n"
    )
