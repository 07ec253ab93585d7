"""Every name that crosses a process border: API group, stage kinds, file names of the store."""

from typing import Literal, get_args

GROUP = "prism.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "PrismRun"

StageKind = Literal["sft", "align", "rlvr"]
STAGE_ORDER: tuple[StageKind, ...] = get_args(StageKind)
"""Stages always run in this order; a stage that is left out is skipped."""

PLURAL = "prismruns"
SHORT_NAME = "prun"
MANAGER = "prism-operator"
"""Value of `app.kubernetes.io/managed-by` on all children, and the operator's field manager."""

UID_LABEL = f"{GROUP}/run-uid"
"""On every child and its pods: the run that they belong to, whatever its name was used for."""
RUN_LABEL = f"{GROUP}/run"
STAGE_LABEL = f"{GROUP}/stage"
ATTEMPT_LABEL = f"{GROUP}/attempt"
"""On a stage's PyTorchJob, its pods and its ConfigMap."""
ROLE_LABEL = f"{GROUP}/role"

Role = Literal["trainer", "rollout"]
"""What a pod of a stage does."""

MANIFEST_FILE = "manifest.json"
RESULT_FILE = "result.json"

ANCESTOR_VARIABLE = "PRISM_ANCESTOR_PID"
"""Environment variable with the id of a process: those who inherit it end with that process."""

NODES_VARIABLE = "PRISM_NODES"
"""Environment of a launcher in a pod: pods of its stage, each with a launcher of its own. Without
it a launcher runs all replicas as processes of its machine."""
NODE_RANK_VARIABLE = "PRISM_NODE_RANK"
"""Environment: index of the launcher's pod, the first is 0."""
RENDEZVOUS_VARIABLE = "PRISM_RENDEZVOUS"
"""Environment: `HOST:PORT` of pod 0, where the pods of a stage meet; needed by more than one."""

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
"""RFC 1123 label: what Kubernetes accepts as a name and what is safe in a path."""
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""RFC 1123 subdomain: the name of a Secret, a ConfigMap or a queue."""

MAX_RUN_NAME = 40
"""Child names append stage, attempt and a replica index and must stay within 63 characters."""

ADDRESSING_STYLE_VARIABLE = "PRISM_S3_ADDRESSING_STYLE"
"""Environment: storage.addressingStyle; boto3 has no variable for it. Absent: auto."""
