"""The Training Operator: pods for PyTorchJobs, and the jobs' statuses."""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime

from played.actions import Actions
from played.api import JOBS, PODS, ApiError, Json
from played.job_rules import JOB_NAME, next_of, pod_of
from played.mirror import Change, Key, key_of

_AGAIN_S = 0.5


class TrainingOperator:
    """Reconciles each job whenever the job or one of its pods changes, one at a time per job."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self._jobs: dict[Key, Json] = {}
        self._pods: dict[str, dict[str, Json]] = defaultdict(dict)
        self._expected: set[tuple[str, str]] = set()
        self._busy: set[Key] = set()
        self._again: set[Key] = set()
        self._warned: set[str] = set()

    def job_changed(self, change: Change, job: Json) -> None:
        """Listener of jobs."""
        key = key_of(job)
        if change == "DELETED":
            self._jobs.pop(key, None)
            self._pods.pop(job["metadata"]["uid"], None)
        else:
            self._jobs[key] = job
            self._enqueue(key)

    def pod_changed(self, change: Change, pod: Json) -> None:
        """Listener of pods."""
        meta = pod["metadata"]
        owner, job = _owner(pod), meta["labels"].get(JOB_NAME)
        if owner is None or job is None:
            return
        self._expected.discard((owner, meta["name"]))
        if change == "DELETED":
            self._pods[owner].pop(meta["name"], None)
        else:
            self._pods[owner][meta["name"]] = pod
        self._enqueue((meta["namespace"], job))

    def _enqueue(self, key: Key) -> None:
        if key in self._busy:
            self._again.add(key)
            return
        self._busy.add(key)
        self._actions.start(self._work(key))

    async def _work(self, key: Key) -> None:
        try:
            while True:
                self._again.discard(key)
                if (job := self._jobs.get(key)) and "deletionTimestamp" not in job["metadata"]:
                    await self._reconcile(job)
                if key not in self._again:
                    return
        finally:
            self._busy.discard(key)

    async def _reconcile(self, job: Json) -> None:
        uid, namespace = job["metadata"]["uid"], job["metadata"]["namespace"]
        pods = self._pods[uid]
        step = next_of(job, list(pods.values()), datetime.now(UTC))
        # Before the pods: what the real one writes when it first sees a job.
        if step.status is not None:
            conditions = [each["type"] for each in step.status["conditions"]]
            await self._actions.set_status(JOBS, job, conditions[-1], step.status)
            # What it wrote counts at once: a pod's change may come before the job's.
            job["status"] = step.status
        for pod in (pod_of(job, index) for index in step.create):
            await self._create(key_of(job), uid, pod)
        for name in step.delete:
            path, pod_uid = PODS.path(namespace, name), pods[name]["metadata"]["uid"]
            request = self._actions.api.delete(path, pod_uid)
            await self._actions.change(PODS, pods[name], "deleted", request)

    async def _create(self, key: Key, job_uid: str, pod: Json) -> None:
        """Once; until the pod is seen, or seen to be gone, it counts as there."""
        expected = (job_uid, pod["metadata"]["name"])
        if expected in self._expected:
            return
        self._expected.add(expected)
        path = PODS.path(pod["metadata"]["namespace"])
        try:
            request = self._actions.api.post(path, pod)
            if await self._actions.change(PODS, pod, "created", request):
                return
        except ApiError as error:
            # A quota or a policy: someone may change it.
            if error.status not in (403, 422):
                raise
            self._actions.record.refused.append(str(error))
            await self._warn(pod, str(error))
            self._actions.start(self._try_again(key))
        self._expected.discard(expected)

    async def _warn(self, pod: Json, message: str) -> None:
        """An Event about the job, once in a job's life; the real one counts them up."""
        owner, namespace = pod["metadata"]["ownerReferences"][0], pod["metadata"]["namespace"]
        if owner["uid"] in self._warned:
            return
        self._warned.add(owner["uid"])
        about = {k: owner[k] for k in ("apiVersion", "kind", "name", "uid")}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{owner['name']}.", "namespace": namespace},
            "involvedObject": about | {"namespace": namespace},
            "type": "Warning",
            "reason": "FailedCreatePod",
            "message": f"Error creating: {message}",
        }
        await self._actions.api.post(f"/api/v1/namespaces/{namespace}/events", event)

    async def _try_again(self, key: Key) -> None:
        await asyncio.sleep(_AGAIN_S)
        self._enqueue(key)


def _owner(thing: Json) -> str | None:
    owners = thing["metadata"].get("ownerReferences", ())
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)
