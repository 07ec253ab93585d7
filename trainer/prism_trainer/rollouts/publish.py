"""Puts the policy's weights into the store, in the layout that rollout servers load."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from prism_api.checkpoint import CheckpointManifest
from prism_api.rollout import PUBLISHED_FOLDER, Weights
from prism_api.stage_config import StageConfig
from prism_store.checkpoints import make_checkpoint
from prism_store.store import Store
from prism_trainer.distributed import Ranks
from prism_trainer.engine.sources import TensorSource, cast
from prism_trainer.models import published
from prism_trainer.tensor_files import write_model


@dataclass(frozen=True)
class Publisher:
    """Writes versions of a policy's weights; the newest replaces the one before."""

    store: Store
    config: StageConfig
    ranks: Ranks
    work_folder: Path
    dtype: torch.dtype
    """What the servers compute in."""

    def publish(self, weights: Mapping[str, TensorSource], version: int) -> Weights:
        """All processes give their parts and get the reference; the first one writes."""
        tensors = published({name: cast(w, self.dtype) for name, w in weights.items()})
        written = None
        if self.ranks.is_first:
            written = self._write(tensors, version)
        else:
            write_model(None, tensors)
        reference = self.ranks.gather(written)[0]
        assert reference is not None, "the first process wrote it"
        return reference

    def _write(self, tensors: Mapping[str, TensorSource], version: int) -> Weights:
        folder, config = self.work_folder / PUBLISHED_FOLDER, self.config
        manifest = CheckpointManifest(
            run_uid=config.run.uid,
            stage=config.kind,
            attempt=config.attempt,
            step=version,
            weight_version=version,
            config_hash=config.config_hash,
            parent=config.init_from,
            objects=(),
        )
        key = f"{PUBLISHED_FOLDER}/v{version}"
        ref = make_checkpoint(
            self.store, key, folder, manifest, lambda empty: write_model(empty, tensors)
        )
        for name in self.store.names(PUBLISHED_FOLDER):
            if name != f"v{version}":
                self.store.delete(f"{PUBLISHED_FOLDER}/{name}")
        return Weights(version=version, checkpoint=ref)
