"""What a run's children do on a cluster, played in memory: jobs, their pods, rollout servers.

Objects are the sightings that a run is judged by; here they are the truth, and an operator may see
an older state of them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prism_api.base import parse_json
from prism_api.checkpoint import CheckpointRef
from prism_api.names import StageKind
from prism_api.reporting import StageReport
from prism_api.stage_config import StageConfig
from prism_operator.manifests.context import Manifest
from prism_operator.planning.sightings import JobSeen, PodSeen, ServersSeen
from report_builders import a_result

STAGE_LABEL, ATTEMPT_LABEL = "prism.dev/stage", "prism.dev/attempt"


@dataclass
class SimulatedCluster:
    """The children of one run."""

    queues: bool
    jobs: dict[str, JobSeen] = field(default_factory=dict)
    """By name."""
    servers: dict[str, ServersSeen] = field(default_factory=dict)
    """By name."""
    pods: dict[str, PodSeen] = field(default_factory=dict)
    """By UID."""
    others: dict[tuple[str, str], str] = field(default_factory=dict)
    """UIDs of what has no state: ConfigMaps, Services, NetworkPolicies; by kind and name."""
    replicas: dict[str, int] = field(default_factory=dict)
    """Pods of a job, servers of a Deployment."""
    configs: dict[str, StageConfig] = field(default_factory=dict)
    """What a ConfigMap's stage is to be made of."""
    reports: list[StageReport] = field(default_factory=list)
    """Everything that a trainer of this run has reported of its stage."""
    count: int = 0

    # What the API server does.

    def has(self, kind: str, name: str) -> bool:
        """Whether the name is taken."""
        with_state: dict[str, Mapping[str, object]]
        with_state = {"PyTorchJob": self.jobs, "Deployment": self.servers}
        return name in with_state.get(kind, {}) or (kind, name) in self.others

    def create(self, manifest: Manifest) -> None:
        """A new object."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        labels = manifest["metadata"]["labels"]
        uid, stage = self._uid(name), labels[STAGE_LABEL]
        if kind == "PyTorchJob":
            spec = manifest["spec"]["pytorchReplicaSpecs"]["Worker"]
            self.replicas[uid] = spec["replicas"]
            number = int(labels[ATTEMPT_LABEL])
            self.jobs[name] = JobSeen(uid, name, stage, number, self.queues, False)
        elif kind == "Deployment":
            self.replicas[uid] = manifest["spec"]["replicas"]
            self.servers[name] = ServersSeen(uid, name, stage, 0)
        else:
            self.others[kind, name] = uid
            if kind == "ConfigMap":
                text = manifest["data"]["stage.json"]
                self.configs[name] = parse_json(StageConfig, text, name)

    def delete(self, kind: str, name: str) -> None:
        """Jobs and Deployments go a while after."""
        if kind == "PyTorchJob" and name in self.jobs:
            self.jobs[name] = replace(self.jobs[name], is_deleting=True)
        elif kind == "Deployment" and name in self.servers:
            self.servers[name] = replace(self.servers[name], is_deleting=True)
        self.others.pop((kind, name), None)

    # What its controllers and nodes do.

    def collect(self) -> None:
        """What was deleted goes; pods without an owner are asked to end."""
        self.jobs = {n: j for n, j in self.jobs.items() if not j.is_deleting}
        self.servers = {n: s for n, s in self.servers.items() if not s.is_deleting}
        owners = {j.uid for j in self.jobs.values()} | {s.uid for s in self.servers.values()}
        self.change_pods(lambda p: p.job_uid not in owners, is_deleting=True)

    def control(self) -> None:
        """The Training Operator and the Deployment controller, once for everything."""
        for job in list(self.jobs.values()):
            if job.is_deleting or job.is_finished:
                continue
            if job.is_queued:
                self._take_pods(job)
                continue
            self._judge_job(job)
        for one in self.servers.values():
            if not one.is_deleting:
                self._make_pods("rollout", one.name, one.uid, one.kind, 0)

    def _judge_job(self, job: JobSeen) -> None:
        self._make_pods("trainer", job.name, job.uid, job.kind, job.attempt)
        own = [p for p in self.pods.values() if p.job_uid == job.uid]
        is_failed = any(p.phase == "Failed" for p in own)
        if is_failed or all(p.phase == "Succeeded" for p in own):
            self.finish(job, "a worker failed" if is_failed else "")

    def finish(self, job: JobSeen, message: str) -> None:
        """The Training Operator is done with a job; cleanPodPolicy Running."""
        self.jobs[job.name] = replace(job, is_finished=True, message=message)
        self.change_pods(lambda p: p.job_uid == job.uid and not p.is_over, is_deleting=True)

    def _take_pods(self, job: JobSeen) -> None:
        self.change_pods(lambda p: p.job_uid == job.uid, is_deleting=True)

    def _make_pods(self, role: Any, name: str, uid: str, kind: StageKind, attempt: int) -> None:
        there = {p.index for p in self.pods.values() if p.job_uid == uid}
        for index in range(self.replicas[uid]):
            if index not in there:
                pod = f"{name}-worker-{index}"
                self.count += 1
                fresh = PodSeen(
                    f"{pod}-{self.count}", pod, role, kind, attempt, index, "Pending", job_uid=uid
                )
                self.pods[fresh.uid] = fresh

    def change_pods(self, which: Callable[[PodSeen], bool], **facts: Any) -> None:
        """Some of them."""
        for uid, pod in self.pods.items():
            if which(pod):
                self.pods[uid] = replace(pod, **facts)

    def start(self, which: Callable[[PodSeen], bool] = lambda pod: True) -> None:
        """Nodes have the images and run what is bound to them; servers become ready."""
        self.change_pods(
            lambda p: which(p) and p.phase == "Pending", phase="Running", address="10.0.0.1",
            blocker="",
        )  # fmt: skip

    def end_deleted(self, *, with_word: bool) -> None:
        """Pods that were asked to end have: they are gone, or, just before, say how they ended."""
        if with_word:
            self.change_pods(
                lambda p: p.is_deleting and not p.is_over, phase="Failed", exit_code=75,
                termination_message="saved",
            )  # fmt: skip
        else:
            self.pods = {u: p for u, p in self.pods.items() if not p.is_deleting}

    def end(self, pod: PodSeen, code: int | None, message: str, **facts: Any) -> None:
        """A pod ends by itself."""
        self.pods[pod.uid] = replace(
            pod,
            phase="Succeeded" if code == 0 else "Failed",
            exit_code=code,
            termination_message=message,
            **facts,
        )

    def set_ready(self, is_ready: bool) -> None:
        """All servers."""
        for name, one in self.servers.items():
            ready = self.replicas[one.uid] if is_ready else 0
            self.servers[name] = replace(one, ready=ready)

    def queue(self, is_queued: bool) -> None:
        """Kueue admits jobs, or takes their machines away."""
        for name, job in self.jobs.items():
            if not job.is_finished:
                self.jobs[name] = replace(job, is_queued=is_queued)

    def report(self, pod: PodSeen) -> str:
        """What rank 0 of a stage that is done leaves."""
        name = pod.name.removesuffix(f"-worker-{pod.index}")
        report = report_of(self.configs[name])
        self.reports.append(report)
        return report.model_dump_json(by_alias=True)

    def trainers(self) -> list[PodSeen]:
        """Trainer pods that hold machines."""
        return [p for p in self.pods.values() if p.role == "trainer" and not p.is_over]

    def _uid(self, name: str) -> str:
        self.count += 1
        return f"{name}-{self.count}"


def report_of(config: StageConfig) -> StageReport:
    """The proof that a stage is done as its config asks for."""
    uri = f"{config.stage_uri}/a{config.attempt}/step-9"
    result = a_result(
        config.kind,
        run=config.run,
        attempt=config.attempt,
        config_hash=config.config_hash,
        checkpoint=CheckpointRef(uri=uri, digest=hashlib.sha256(uri.encode()).hexdigest()),
    )
    digest = hashlib.sha256(result.to_json().encode()).hexdigest()
    return StageReport(uri=f"{uri}/result.json", digest=digest, result=result)


def of_another_run(report: str) -> str:
    """The same, as another run's trainer would leave it."""
    document = json.loads(report)
    document["result"]["run"]["uid"] = "99999999-9999"
    return json.dumps(document)
