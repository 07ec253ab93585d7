"""Has trainer and rollout servers check the stages that are still to be done, before the first of
them starts."""

import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from prism_api.errors import ProgramError, SpecError
from prism_api.gpus import count_gpus, gpu_problem
from prism_api.names import StageKind
from prism_api.resources import on_servers
from prism_api.stage_config import StageConfig
from prism_operator.local.folder import RunFolder
from prism_operator.local.programs import run_program
from prism_operator.planning.plan import Plan
from prism_store.store import store_errors


def check_stages(
    plan: Plan, done: Container[StageKind], folder: RunFolder, stop_requested: Callable[[], bool]
) -> None:
    """Check settings and data of all stages but those that are `done`, and whether their rollout
    servers can be started here, unless a stop is requested.

    Raises ProgramError with everything that is wrong: exit code 64 for settings, 65 for data.
    """
    configs = {
        folder.preflight / f"{step.kind}.json": step.config(1, None)
        for step in plan.train_steps
        if step.kind not in done
    }
    if not configs:
        return
    check_gpus(configs.values(), count_gpus(os.environ))
    with store_errors(folder.preflight):
        folder.preflight.mkdir(exist_ok=True)
        for path, config in configs.items():
            path.write_text(config.to_json())
    programs = {"prism_trainer.preflight": [*map(str, configs)]}
    served = [str(path) for path, config in configs.items() if on_servers(config.rollout)]
    if served:
        programs["prism_rollout.preflight"] = served
    _run_all(programs, stop_requested)


def check_gpus(configs: Iterable[StageConfig], count: int) -> None:
    """Refuse stages with more trainer processes on GPUs than there are GPUs here; raises
    SpecError."""
    problems = []
    for config in configs:
        workers = config.workers
        needed = workers.replicas * workers.gpus_per_replica
        if needed > count:
            field = f"stages.{config.kind}.workers.gpusPerReplica"
            problems.append(gpu_problem(workers, needed, count, field))
    if problems:
        raise SpecError(problems)


def _run_all(programs: Mapping[str, Sequence[str]], stop_requested: Callable[[], bool]) -> None:
    """Run modules one after the other; raises ProgramError with what all of them said."""
    errors = []
    for module, arguments in programs.items():
        try:
            run_program(module, arguments, stop_requested)
        except ProgramError as error:
            errors.append(error)
    if errors:
        code = min(error.exit_code for error in errors)
        raise ProgramError(code, "\n".join(map(str, errors)))
