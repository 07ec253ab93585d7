"""The loop around every stage: resume, iterate, checkpoint, evaluate, report the result."""

import json
import time
from collections.abc import Callable

from prism_api.checkpoint import CheckpointRef
from prism_api.names import RESULT_FILE
from prism_api.stage_config import StageResult
from prism_store.store import Store
from prism_trainer.evaluation import check_questions, evaluate
from prism_trainer.metrics import PROGRESS_FILE, History, Progress
from prism_trainer.record import Record, gather_usage
from prism_trainer.resume import Checkpoints, Position, restore
from prism_trainer.stages.program import Metrics, Phase, StageContext, StageProgram


class StageLoop:
    """Runs a program from wherever its newest checkpoint left it."""

    def __init__(
        self,
        context: StageContext,
        program: StageProgram,
        store: Store,
        stop_requested: Callable[[], bool],
    ) -> None:
        self._context, self._program, self._store = context, program, store
        self._stop_requested = stop_requested
        self._checkpoints = Checkpoints(context, store)
        self._checkpoint: CheckpointRef | None = None
        """The last one; only the first process knows its reference."""
        self._saved_at = -1
        self._position, self._history, self._record = Position(), History(), Record()
        total = sum(phase.steps for phase in program.phases)
        self._total = total
        path = context.work_folder / PROGRESS_FILE
        self._progress = Progress(path, context.config.kind, total, context.ranks.is_first)

    def run(self) -> bool:
        """Whether the stage is done; if not, it was asked to stop and has saved itself."""
        evaluation, stage = self._context.config.evaluation, self._context.config.stage
        if evaluation is not None:
            message = self._context.config.system_message
            check_questions(evaluation, stage.max_prompt_tokens, self._context.encoder, message)
        self._resume()
        every = stage.checkpoint_every_steps
        while self._position.iteration < self._total:
            if self._context.ranks.any(self._stop_requested()):
                self._save()
                return False
            self._iterate()
            if self._position.iteration % every == 0 or self._position.iteration == self._total:
                self._save()
        return self._finish()

    def _resume(self) -> None:
        checkpoint = self._checkpoints.find()
        if checkpoint is not None:
            restored = restore(checkpoint, self._context, self._program)
            self._position, self._history, self._record = restored
            self._checkpoint, self._saved_at = checkpoint.ref, self._position.iteration
        self._context.client.update_weights(self._position.weight_version)

    def _iterate(self) -> None:
        started = time.monotonic()
        phase, step = self._place()
        done = self._program.iterate(phase.name, step)
        if phase.policy_steps:
            self._position.weight_version += phase.policy_steps
            self._context.client.update_weights(self._position.weight_version)
        seconds = time.monotonic() - started
        self._position.seconds += seconds
        self._position.iteration += 1
        metrics = _with_speed(done.metrics, seconds)
        self._history.add(
            {**metrics, "step": step + 1, "phase": phase.name, "seconds": self._position.seconds}
        )
        ranks, attempt = self._context.ranks, self._context.config.attempt
        self._record.add(gather_usage(ranks, done.usage, phase.name, step + 1, attempt))
        self._progress.report(self._position.iteration, phase.name, step + 1, phase.steps, metrics)

    def _place(self) -> tuple[Phase, int]:
        step = self._position.iteration
        for phase in self._program.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        raise AssertionError("the loop ends with the last phase")

    def _save(self) -> None:
        """Make a checkpoint unless this iteration has one; all processes decide alike, for all take
        part in it."""
        if self._saved_at == self._position.iteration:
            return
        self._checkpoint = self._checkpoints.save(
            self._program, self._position, self._history, self._record
        )
        self._saved_at = self._position.iteration

    def _finish(self) -> bool:
        """Evaluate and report, unless asked to stop before: the final checkpoint is there, and who
        resumes has only this left to do."""
        context, config = self._context, self._context.config
        evaluation = None
        samples: list[dict[str, object]] = []
        if config.evaluation is not None:
            self._progress.report(self._total, "evaluate", 0, 1, {})
            evaluated = evaluate(
                config.evaluation,
                config.stage.max_prompt_tokens,
                context.encoder,
                context.client,
                context.ranks,
                self._stop_requested,
                config.system_message,
            )
            if evaluated is None:
                return False
            evaluation, samples = evaluated
        if not context.ranks.is_first:
            return True
        assert self._checkpoint is not None, "the last iteration made a checkpoint"
        result = StageResult(
            run=config.run,
            kind=config.kind,
            attempt=config.attempt,
            config_hash=config.config_hash,
            steps=self._position.weight_version,
            seconds=self._position.seconds,
            checkpoint=self._checkpoint,
            evaluation=evaluation,
        )
        self._report(result, samples)
        return True

    def _report(self, result: StageResult, samples: list[dict[str, object]]) -> None:
        """The result goes last: who sees it finds everything else."""
        attempt = f"a{result.attempt}"
        self._store.put(f"{attempt}/samples.json", json.dumps(samples).encode())
        self._store.put(f"{attempt}/metrics.jsonl", self._history.to_jsonl().encode())
        self._store.put(f"{attempt}/{RESULT_FILE}", result.to_json().encode())


def _with_speed(metrics: Metrics, seconds: float) -> Metrics:
    speed = metrics.pop("tokens", 0.0) / seconds
    return metrics | {"tokens_per_second": speed}
