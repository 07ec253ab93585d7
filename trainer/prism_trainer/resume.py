"""Saving a stage between two iterations, and continuing exactly there."""

import json
from dataclasses import dataclass
from pathlib import Path

from prism_api.checkpoint import CheckpointManifest, CheckpointRef
from prism_api.errors import FieldProblem, SpecError
from prism_api.names import MANIFEST_FILE
from prism_store.attempts import attempt_numbers
from prism_store.checkpoints import Checkpoint, make_checkpoint, newest_checkpoint, read_checkpoint
from prism_store.store import Store
from prism_trainer.metrics import History
from prism_trainer.models import ExportedWeights, export, export_model
from prism_trainer.record import METRICS_OBJECT, RECORD_OBJECT, Record
from prism_trainer.stages.program import StageContext, StageProgram
from prism_trainer.tensor_files import TensorFiles, write_tensors

_OPTIMIZER, _ADAPTERS = "policy-optimizer", "policy-adapters"
EXPORT = "export"
"""Folder of the checkpoint with the policy in Hugging Face layout; its weights serve the resume
too."""


@dataclass
class Position:
    """Where a stage stands."""

    iteration: int = 0
    weight_version: int = 0
    seconds: float = 0.0


class Checkpoints:
    """The checkpoints of one stage, over all its attempts."""

    def __init__(self, context: StageContext, store: Store) -> None:
        self._context, self._store = context, store
        self._parent = context.config.init_from

    def save(
        self, program: StageProgram, position: Position, history: History, record: Record
    ) -> CheckpointRef | None:
        """Write a checkpoint; all processes take part, the first one writes and gets the
        reference."""
        facts = program.facts()
        if not self._context.ranks.is_first:
            self._write_tensors(None, program)
            return None
        config = self._context.config
        manifest = CheckpointManifest(
            run_uid=config.run.uid,
            stage=config.kind,
            attempt=config.attempt,
            step=position.iteration,
            weight_version=position.weight_version,
            config_hash=config.config_hash,
            parent=self._parent,
            objects=(),
        )
        key = f"a{config.attempt}/step-{position.iteration}"

        def fill(folder: Path) -> None:
            self._write_tensors(folder, program)
            state = {"position": vars(position), "facts": facts}
            (folder / "state.json").write_text(json.dumps(state))
            (folder / METRICS_OBJECT).write_text(history.to_jsonl())
            (folder / RECORD_OBJECT).write_text(record.to_jsonl())

        folder = self._context.work_folder / "checkpoint"
        ref = make_checkpoint(self._store, key, folder, manifest, fill)
        self._retain()
        return ref

    def _write_tensors(self, folder: Path | None, program: StageProgram) -> None:
        """Everything of float32; processes without a folder only give their parts of it."""
        policy = self._context.policy
        weights = policy.weights()
        export(folder and folder / EXPORT, policy.model, self._context.processor, weights)
        assert policy.optimizer is not None, "an optimizer was attached"
        files = {_OPTIMIZER: policy.optimizer.state(), **program.tensors()}
        if policy.adapters:
            files[_ADAPTERS] = policy.trained_weights()
        for name, model in program.models().items():
            export_model(folder and folder / name, model.config, model.weights)
        for name, values in files.items():
            write_tensors(folder and folder / f"{name}.safetensors", values)

    def _retain(self) -> None:
        """Delete all but the newest complete checkpoints of the stage, and half-written ones."""
        complete: list[tuple[int, str]] = []
        for number in attempt_numbers(self._store.names("")):
            for name in self._store.names(f"a{number}"):
                key = f"a{number}/{name}"
                if not name.startswith("step-"):
                    continue
                if self._store.exists(f"{key}/{MANIFEST_FILE}"):
                    complete.append((int(name.removeprefix("step-")), key))
                else:  # its writer is dead, or this attempt would not be running
                    self._store.delete(key)
        for _, key in sorted(complete)[: -self._context.config.retention.keep_last]:
            self._store.delete(key)

    def find(self) -> Checkpoint | None:
        """The newest complete checkpoint, verified; refuses one of another configuration."""
        ref = newest_checkpoint(self._store)
        if ref is None:
            return None
        checkpoint = read_checkpoint(ref)
        if checkpoint.manifest.config_hash != self._context.config.config_hash:
            problem = FieldProblem(
                f"{ref.uri}/{MANIFEST_FILE}",
                "was written under other settings",
                "start a run with another name, or undo the change",
            )
            raise SpecError([problem])
        return checkpoint


def restore(
    checkpoint: Checkpoint, context: StageContext, program: StageProgram
) -> tuple[Position, History, Record]:
    """Put everything back; the next iteration is the one that would have come."""
    state = json.loads(checkpoint.files["state.json"].read_text())
    policy = context.policy
    program.load_facts(state["facts"])
    tensors = {
        name.removesuffix(".safetensors"): TensorFiles(path)
        for name, path in checkpoint.files.items()
        if name.endswith(".safetensors") and "/" not in name
    }
    exported = ExportedWeights(checkpoint.folder(EXPORT))
    models = {name: _model_tensors(checkpoint, name) for name in program.models()}
    # Merged weights do not say what the adapters were.
    policy.load_weights(tensors.pop(_ADAPTERS) if policy.adapters else exported)
    assert policy.optimizer is not None, "an optimizer was attached"
    policy.optimizer.load_state(tensors.pop(_OPTIMIZER))
    program.load_tensors({**tensors, **models})
    history = History.from_jsonl(checkpoint.files[METRICS_OBJECT].read_text())
    record = Record(checkpoint.files[RECORD_OBJECT].read_text())
    return Position(**state["position"]), history, record


def _model_tensors(checkpoint: Checkpoint, name: str) -> TensorFiles:
    return TensorFiles(*sorted(checkpoint.folder(name).glob("*.safetensors")))
