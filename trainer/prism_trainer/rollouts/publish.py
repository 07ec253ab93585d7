"""Puts the policy's weights into the store, in the layout that rollout servers load."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from prism_api.checkpoint import CheckpointManifest
from prism_api.errors import StoreError
from prism_api.rollout import PUBLISHED_FOLDER, Weights
from prism_api.stage_config import StageConfig
from prism_store.checkpoints import write_checkpoint
from prism_store.store import Store, store_errors
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
        shutil.rmtree(folder, ignore_errors=True)
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
        self.store.delete(key)
        try:
            with store_errors(folder):
                folder.mkdir(parents=True)
                write_model(folder, tensors)
            ref = write_checkpoint(self.store, key, folder, manifest)
        except StoreError:
            # What did not fit must not fill the disk: checkpoints and the outcome go there too.
            shutil.rmtree(folder, ignore_errors=True)
            self.store.delete(key)
            raise
        for name in self.store.names(PUBLISHED_FOLDER):
            if name != f"v{version}":
                self.store.delete(f"{PUBLISHED_FOLDER}/{name}")
        return Weights(version=version, checkpoint=ref)
