"""Starts a rollout server: `python -m prism_rollout --model DIR --port N --folder DIR`.

It becomes vLLM's own server (same process), guarded by the token of PRISM_ROLLOUT_TOKEN_FILE or
PRISM_ROLLOUT_TOKEN.
"""

import argparse
import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from prism_api.errors import PrismError
from prism_api.process import die_with_parent, inherited_ancestor
from prism_api.rollout import IMAGES_PER_PROMPT, read_token
from prism_rollout.command import (
    ENTRY_POINTS,
    ServerOptions,
    longest_context,
    server_arguments,
    server_environment,
)
from prism_rollout.environment import check_environment
from prism_rollout.model import model_folder


def main() -> None:
    """Check what can be checked at once, then become the server."""
    die_with_parent(inherited_ancestor())
    try:
        options = _checked(_parse())
    except PrismError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    environment = server_environment(options, os.environ)
    for name in ("tmp", "weights"):
        (options.folder / name).mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder / "tmp")  # where its sockets go: their absolute paths can be too long
    command = [sys.executable, "-m", _entry_point(), *server_arguments(options)]
    os.execve(sys.executable, command, environment)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m prism_rollout", description=__doc__)
    parser.add_argument("--model", required=True, help="folder in Hugging Face layout, or hub name")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for caches and fetched weights")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--gpus", type=int, default=0, help="0: on the CPU, in float32")
    parser.add_argument("--max-model-len", type=int, help="tokens of prompt and response together")
    parser.add_argument("--max-images", type=int, default=IMAGES_PER_PROMPT, help="in one prompt")
    return parser.parse_args()


def _checked(arguments: argparse.Namespace) -> ServerOptions:
    """The options with the context that the model can have; raises SpecError or DataError for what
    cannot work."""
    read_token(os.environ)
    check_environment(arguments.gpus, "--gpus", "this environment")
    places = {"folder": arguments.folder.resolve(), "model": model_folder(arguments.model)}
    options = ServerOptions(**vars(arguments) | places)
    config = json.loads((options.model / "config.json").read_text())
    limit = longest_context(config, options.max_model_len)
    return replace(options, max_model_len=limit)


def _entry_point() -> str:
    """The module that serves, found without importing vLLM, which takes long."""
    package = importlib.util.find_spec("vllm")
    assert package is not None, "vLLM is installed"
    assert package.origin is not None, "vLLM is a package"
    folder = Path(package.origin).parents[1]
    there = (name for name in ENTRY_POINTS if (folder / f"{name.replace('.', '/')}.py").is_file())
    return next(there)


if __name__ == "__main__":
    main()
