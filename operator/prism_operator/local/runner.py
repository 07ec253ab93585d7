"""Runs a whole PrismRun on this machine: observe, decide, act, show, until it is settled."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from prism_api.exit_codes import ExitCode
from prism_api.reasons import Reason
from prism_api.run import PrismRun
from prism_api.status import State
from prism_api.uris import local_path
from prism_operator.local.changes import check_unchanged
from prism_operator.local.executor import LocalExecutor
from prism_operator.local.folder import RunFolder, Usage, open_folder, run_yaml
from prism_operator.local.inputs import builtin_sets, localise, make_inputs
from prism_operator.local.memory import MemoryWatch
from prism_operator.local.preflight import check_stages
from prism_operator.planning.decide import Decision, StartAttempt, decide
from prism_operator.planning.observation import RunObserved
from prism_operator.planning.plan import Plan, plan
from prism_operator.progress import ProgressView
from prism_operator.report.artifacts import RunArtifacts, read_stage
from prism_operator.report.html import write_report

_POLL_SECONDS = 0.2
_SETTLED = {
    State.SUCCEEDED: ExitCode.DONE,
    State.SUSPENDED: ExitCode.SAVED,
    State.FAILED: ExitCode.CRASHED,
    State.CANCELLED: ExitCode.SAVED,
    State.BLOCKED: ExitCode.STORE,
}


_CUT_OFF = "not waited for the checkpoint: what was done since the last one is lost"


class Interrupts:
    """Ctrl-C and SIGTERM: the first asks to save and stop, a second one does not wait."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def caught(self) -> Iterator["Interrupts"]:
        """Take over both signals for the duration of a block."""
        old = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def any(self) -> bool:
        """Whether there was one."""
        return self.count > 0

    def _note(self, _: int, __: FrameType | None) -> None:
        self.count += 1


def run_locally(run: PrismRun, base: Path, out: Path, view: ProgressView) -> ExitCode:
    """Run, or continue, a PrismRun in the folder `out`; relative URIs start at `base`.

    Returns the contract's exit code. Raises PrismError for what is wrong before any training
    starts: with settings or data of any stage, with the folder, with inputs that cannot be made.
    """
    sets = builtin_sets(run)
    inputs = out.resolve() / "inputs" / f"seed-{run.spec.seed}"
    local = localise(run, base, inputs)
    folder = open_folder(out, local)
    try:
        identity = folder.identity
        steps = plan(local, identity.uid, identity.store)
        results = LocalExecutor(steps, folder).observe(suspend=False).results
        check_unchanged(steps, identity.store, results, folder.document)
        with Interrupts().caught() as interrupts, _measured(folder):
            if sets:
                view.message(f"inputs: {', '.join(sets)} in {inputs}")
                make_inputs(sets, inputs, run.spec.seed, interrupts.any)
            if not run.spec.suspend and not interrupts.any():
                check_stages(steps, results, folder, interrupts.any)
            folder.save_document(run)
            decision = _execute(steps, local, folder, view, interrupts)
        return _conclude(decision, steps, run, folder, view)
    finally:
        folder.close()


@contextmanager
def _measured(folder: RunFolder) -> Iterator[None]:
    """Add what a block uses to what earlier invocations used."""
    started = time.monotonic()
    with MemoryWatch() as memory:
        try:
            yield
        finally:
            before = folder.usage()
            seconds = before.wall_seconds + time.monotonic() - started
            folder.save_usage(Usage(seconds, max(before.peak_rss_bytes, memory.peak_bytes)))


def _execute(
    steps: Plan, run: PrismRun, folder: RunFolder, view: ProgressView, interrupts: Interrupts
) -> Decision:
    executor = LocalExecutor(steps, folder)
    shown = _Shown(view, executor)
    try:
        while True:
            observed = executor.observe(suspend=run.spec.suspend or interrupts.any())
            observed = replace(observed, cancel=run.spec.cancel)
            decision = decide(steps, run.spec.failure_policy, observed, time.time())
            shown.update(decision, observed)
            if decision.state in _SETTLED:
                return decision
            if interrupts.count > 1:
                view.message(_CUT_OFF)
                return Decision(
                    State.SUSPENDED, Reason.SUSPENDED, decision.stages, message=_CUT_OFF
                )
            _apply(decision, executor, view)
            time.sleep(_POLL_SECONDS)
    finally:
        executor.kill()


def _apply(decision: Decision, executor: LocalExecutor, view: ProgressView) -> None:
    for action in decision.actions:
        if isinstance(action, StartAttempt):
            if action.attempt > 1:
                view.message(f"{action.kind}: attempt {action.attempt} continues")
            if executor.is_served(action.kind):
                view.message(f"{action.kind}: starting rollout servers, which takes minutes")
            executor.start(action)
        else:
            executor.stop(action)


class _Shown:
    """Tells the view what is new, once."""

    def __init__(self, view: ProgressView, executor: LocalExecutor) -> None:
        self._view, self._executor = view, executor
        self._done: set[str] = set()
        self._message = ""

    def update(self, decision: Decision, observed: RunObserved) -> None:
        for kind, result in observed.results.items():
            if kind not in self._done:
                self._done.add(kind)
                self._view.stage_done(result)
        if decision.message and decision.message != self._message:
            self._view.message(decision.message)
        self._message = decision.message
        for kind, number in self._executor.running():
            progress = self._executor.progress(kind, number)
            if progress is not None and kind not in self._done:
                self._view.update(
                    kind,
                    progress.phase,
                    progress.step,
                    progress.steps,
                    progress.metrics,
                    progress.eta_seconds,
                )


def _conclude(
    decision: Decision, steps: Plan, run: PrismRun, folder: RunFolder, view: ProgressView
) -> ExitCode:
    if decision.state is State.SUCCEEDED:
        report = write_report(read_artifacts(steps, run, folder), run_yaml(run), folder.path)
        view.message(f"report: {report}")
    elif decision.state is State.SUSPENDED:
        view.message("stopped; the same command continues from the last checkpoint")
    return decision.exit_code or _SETTLED[decision.state]


def read_artifacts(steps: Plan, run: PrismRun, folder: RunFolder) -> RunArtifacts:
    """What a finished run left in its store."""
    executor = LocalExecutor(steps, folder)
    results = executor.observe(suspend=False).results
    stages = {
        step.kind: read_stage(local_path(step.stage_uri) / f"a{results[step.kind].attempt}")
        for step in steps.train_steps
    }
    usage = folder.usage()
    return RunArtifacts(
        name=steps.run.name,
        uid=steps.run.uid,
        seed=run.spec.seed,
        stages=stages,
        peak_rss_bytes=usage.peak_rss_bytes,
        wall_seconds=usage.wall_seconds,
    )
