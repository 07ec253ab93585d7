"""Every name that crosses a process border: API group, stage kinds, file names of the store."""

from typing import Literal, get_args

GROUP = "prism.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "PrismRun"

StageKind = Literal["sft", "align", "rlvr"]
STAGE_ORDER: tuple[StageKind, ...] = get_args(StageKind)
"""Stages always run in this order; a stage that is left out is skipped."""

MANIFEST_FILE = "manifest.json"
RESULT_FILE = "result.json"

ANCESTOR_VARIABLE = "PRISM_ANCESTOR_PID"
"""Environment variable with the id of a process: those who inherit it end with that process."""

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
"""RFC 1123 label: what Kubernetes accepts as a name and what is safe in a path."""

MAX_RUN_NAME = 40
"""Child names append stage, attempt and a replica index and must stay within 63 characters."""
