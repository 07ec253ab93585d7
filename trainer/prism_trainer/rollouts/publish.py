"""Puts the policy's weights into the store, in the layout that rollout servers load."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prism_api.checkpoint import CheckpointManifest
from prism_api.errors import StoreError
from prism_api.rollout import Weights
from prism_api.stage_config import StageConfig
from prism_store.checkpoints import write_checkpoint
from prism_store.store import Store, store_errors
from prism_trainer.distributed import Ranks

_FOLDER = "weights"
"""In the stage's folder of the store, beside its attempts."""
_FILE_BYTES = 4 << 30
"""Bounds the memory that the copy in the published precision takes."""


@dataclass(frozen=True)
class Publisher:
    """Writes versions of one model's weights; the newest replaces the one before."""

    store: Store
    config: StageConfig
    ranks: Ranks
    work_folder: Path
    dtype: torch.dtype
    """What the servers compute in."""

    def publish(self, model: nn.Module, version: int) -> Weights:
        """All processes take part and get the reference; the first one writes."""
        weights = self._write(model, version) if self.ranks.is_first else None
        published = self.ranks.gather(weights)[0]
        assert published is not None, "the first process wrote it"
        return published

    def _write(self, model: nn.Module, version: int) -> Weights:
        folder, config = self.work_folder / _FOLDER, self.config
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
        key = f"{_FOLDER}/v{version}"
        self.store.delete(key)
        try:
            with store_errors(folder):
                folder.mkdir(parents=True)
                save_in_parts(hub_tensors(model, self.dtype), folder)
            ref = write_checkpoint(self.store, key, folder, manifest)
        except StoreError:
            # What did not fit must not fill the disk: checkpoints and the outcome go there too.
            shutil.rmtree(folder, ignore_errors=True)
            self.store.delete(key)
            raise
        for name in self.store.names(_FOLDER):
            if name != f"v{version}":
                self.store.delete(f"{_FOLDER}/{name}")
        return Weights(version=version, checkpoint=ref)


def hub_tensors(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Every tensor as published checkpoints have it, on the CPU, one after the other.

    transformers holds the experts of a layer as [experts, out, in]; published checkpoints and vLLM
    have [experts, in, out], and where both sizes are equal nothing but the answers would show it.
    """
    tied = bool(model.config.tie_word_embeddings)  # type: ignore[union-attr]
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        is_experts = name.endswith((".experts.gate_up_proj", ".experts.down_proj"))
        value = tensor.transpose(1, 2) if is_experts else tensor
        yield name, value.detach().to("cpu", dtype).contiguous()


def save_in_parts(tensors: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """Write safetensors files of a few GB each, so that only one of them is in memory."""
    part: dict[str, Tensor] = {}
    size = count = 0
    for name, tensor in tensors:
        if part and size + tensor.nbytes > _FILE_BYTES:
            save_file(part, folder / f"model-{count:05d}.safetensors")
            part, size, count = {}, 0, count + 1
        part[name] = tensor
        size += tensor.nbytes
    save_file(part, folder / f"model-{count:05d}.safetensors")
