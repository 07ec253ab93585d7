"""Checks, before any stage starts, whether this environment can serve those that sample from vLLM.

`python -m prism_rollout.preflight CONFIG.json...`, run by whoever will start the servers here. It
imports no vLLM.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from prism_api.base import parse_json
from prism_api.errors import SpecError
from prism_api.exit_codes import ExitCode
from prism_api.gpus import count_gpus
from prism_api.process import die_with_parent, inherited_ancestor
from prism_api.resources import on_servers
from prism_api.stage_config import StageConfig
from prism_rollout.environment import check_environment, check_gpus


def main() -> None:
    """Say everything that is wrong; exit with 0 or 64."""
    parser = argparse.ArgumentParser(prog="python -m prism_rollout.preflight", description=__doc__)
    parser.add_argument(
        "configs", type=Path, nargs="+", metavar="CONFIG", help="StageConfig as JSON"
    )
    die_with_parent(inherited_ancestor())
    errors = find_errors(parser.parse_args().configs)
    for error in errors:
        sys.stderr.write(f"{error}\n")
    sys.exit(ExitCode.BAD_CONFIG if errors else ExitCode.DONE)


def find_errors(paths: Sequence[Path]) -> list[SpecError]:
    """What keeps this environment from serving the stages whose configs these files hold."""
    errors = []
    for path in paths:
        try:
            _check(parse_json(StageConfig, path.read_bytes(), str(path)))
        except SpecError as error:
            errors.append(error)
    return errors


def _check(config: StageConfig) -> None:
    rollout, own = config.rollout, f"stages.{config.kind}.rollout"
    if on_servers(rollout):
        field = f"{own}.gpusPerReplica"
        check_environment(rollout.gpus_per_replica, field, f"{own}.backend")
        check_gpus(config.workers, rollout, count_gpus(os.environ), field)


if __name__ == "__main__":
    main()
