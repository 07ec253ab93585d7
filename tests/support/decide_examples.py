"""Situations that a run can be in, and what decide() makes of each."""

from dataclasses import dataclass
from typing import Any

from observed_builders import a_proof, ended, interrupted, observed, preempted, running
from prism_api.status import State
from prism_operator.planning.decide import StartAttempt
from prism_operator.planning.observation import RunObserved
from run_builders import a_plan

SFT = a_proof("sft")
ALIGN = a_proof("align", after=SFT)
RLVR = a_proof("rlvr", after=ALIGN)
OTHER_SEED = a_proof("sft", plan=a_plan({"spec.seed": 1}))
OTHER_PARENT = a_proof("align", after=a_proof("sft", 2))
NOW = 50.0
"""Seconds; later than anything that is observed."""


def start(kind: Any, attempt: int, of: Any = None) -> StartAttempt:
    """Of the attempt that is due; `of` is the result that it starts from."""
    return StartAttempt(kind, attempt, of.checkpoint if of else None)


@dataclass(frozen=True)
class Example:
    """What is observed, and what follows: the run's state, and the only action if there is one."""

    name: str
    found: RunObserved
    state: State
    action: StartAttempt | tuple[Any, int] | None = None
    """A start, or kind and number of the attempt to stop."""
    now: float = NOW

    def __str__(self) -> str:
        return self.name


STOPPED = 75
EXAMPLES = (
    Example("a new run starts sft from the model", observed(), State.RUNNING, start("sft", 1)),
    Example("a running attempt goes on", observed(sft=[running()]), State.RUNNING),
    Example(
        "a proven stage hands its checkpoint on",
        observed(results=(SFT,), sft=[ended(0)]),
        State.RUNNING,
        start("align", 1, SFT),
    ),
    Example(
        "the third stage starts from the second",
        observed(results=(SFT, ALIGN)),
        State.RUNNING,
        start("rlvr", 1, ALIGN),
    ),
    Example("all proven is done", observed(results=(SFT, ALIGN, RLVR)), State.SUCCEEDED),
    Example(
        "done even while suspended", observed(results=(SFT, ALIGN, RLVR), suspend=True),
        State.SUCCEEDED,
    ),
    Example(
        "exit code 0 without a result proves nothing",
        observed(sft=[ended(0)]),
        State.RUNNING,
        start("sft", 2),
    ),
    Example(
        "a result of another run proves nothing",
        observed(results=(a_proof("sft", uid="99999999-9999"),)),
        State.RUNNING,
        start("sft", 1),
    ),
    Example(
        "a result of a later stage does not prove an earlier one",
        observed(results=(ALIGN,)),
        State.RUNNING,
        start("sft", 1),
    ),
    Example(
        "a result under other settings is neither built upon nor replaced",
        observed(results=(OTHER_SEED,), sft=[ended(0)]),
        State.BLOCKED,
    ),
    Example(
        "nor is one that was made from another checkpoint",
        observed(results=(SFT, OTHER_PARENT)),
        State.BLOCKED,
    ),
    Example(
        "nor is one that was made from the model itself",
        observed(results=(SFT, a_proof("align"))),
        State.BLOCKED,
    ),
    Example(
        "that is said while suspended too",
        observed(results=(OTHER_SEED,), suspend=True),
        State.BLOCKED,
    ),
    Example(
        "but not before what runs has ended",
        observed(results=(OTHER_SEED,), sft=[running()]),
        State.STOPPING,
        ("sft", 1),
    ),
    Example(
        "nothing starts while a proven stage's process ends",
        observed(results=(SFT,), sft=[running()]),
        State.RUNNING,
        ("sft", 1),
    ),
    Example(
        "the run is not done before its last process has ended",
        observed(results=(SFT, ALIGN, RLVR), rlvr=[running()]),
        State.STOPPING,
        ("rlvr", 1),
    ),
    Example(
        "nothing starts beside an older attempt that still runs",
        observed(sft=[running(1), interrupted(2)]),
        State.RUNNING,
        ("sft", 1),
    ),
    Example(
        "nothing starts beside an attempt of a later stage",
        observed(align=[running(4)]),
        State.RUNNING,
        ("align", 4),
    ),
    Example("a crash is tried again", observed(sft=[ended(1)]), State.RUNNING, start("sft", 2)),
    Example("so is a kill", observed(sft=[ended(-9)]), State.RUNNING, start("sft", 2)),
    Example("so is no code", observed(sft=[ended(None)]), State.RUNNING, start("sft", 2)),
    Example("so is an unknown code", observed(sft=[ended(3)]), State.RUNNING, start("sft", 2)),
    Example("but not at once", observed(sft=[ended(1, ended_at=50)]), State.RUNNING),
    Example(
        "what its user stops does not count",
        observed(sft=[interrupted(n) for n in range(1, 200)]),
        State.RUNNING,
        start("sft", 200),
    ),
    Example(
        "preempted attempts are no faults",
        observed(sft=[ended(1, 1), ended(1, 2), preempted(3), preempted(4), preempted(5)]),
        State.RUNNING,
        start("sft", 6),
    ),
    Example(
        "and go on at once",
        observed(sft=[ended(1, 1, ended_at=49.5), preempted(2)]),
        State.RUNNING,
        start("sft", 3),
    ),
    Example(
        "but they have a cap of their own",
        observed(sft=[preempted(n) for n in range(1, 5)]),
        State.FAILED,
    ),
    Example(
        "which is each stage's own too",
        observed(results=(SFT,), sft=[preempted(n) for n in range(1, 5)]),
        State.RUNNING,
        start("align", 1, SFT),
    ),
    Example(
        "saved attempts do not count",
        observed(sft=[ended(STOPPED, n) for n in range(1, 9)]),
        State.RUNNING,
        start("sft", 9),
    ),
    Example(
        "a saved attempt goes on at once",
        observed(sft=[ended(STOPPED, ended_at=50)]),
        State.RUNNING,
        start("sft", 2),
    ),
    Example(
        "the budget counts faults only",
        observed(sft=[ended(1, 1), interrupted(2), ended(STOPPED, 3), ended(1, 4)]),
        State.RUNNING,
        start("sft", 5),
    ),
    Example(
        "the budget ends", observed(sft=[ended(1, n) for n in range(1, 4)]), State.FAILED
    ),
    Example(
        "exit code 0 without a result uses the budget",
        observed(sft=[ended(0, n) for n in range(1, 4)]),
        State.FAILED,
    ),
    Example(
        "each stage has its own budget",
        observed(results=(SFT,), sft=[ended(1, 1), ended(1, 2), ended(0, 3)]),
        State.RUNNING,
        start("align", 1, SFT),
    ),
    Example("bad config is final", observed(sft=[ended(64)]), State.FAILED),
    Example("bad data is final", observed(sft=[ended(65)]), State.FAILED),
    Example("a loss that is not finite is final", observed(sft=[ended(70)]), State.FAILED),
    Example(
        "a permanent end is shown even while suspended",
        observed(sft=[ended(65)], suspend=True),
        State.FAILED,
    ),
    Example("a full disk waits for help", observed(sft=[ended(74)]), State.BLOCKED),
    Example(
        "help is still asked for while suspended",
        observed(sft=[ended(74)], suspend=True),
        State.BLOCKED,
    ),
    Example(
        "a store that contradicts the stage is not asked again",
        observed(sft=[ended(73)]),
        State.BLOCKED,
    ),
    Example(
        "nor while suspended", observed(sft=[ended(73)], suspend=True), State.BLOCKED
    ),
    Example(
        "a damaged input of a later stage waits for help too",
        observed(results=(SFT,), align=[ended(74)]),
        State.BLOCKED,
    ),
    Example("a new run can be suspended", observed(suspend=True), State.SUSPENDED),
    Example(
        "suspending stops what runs",
        observed(sft=[running()], suspend=True),
        State.STOPPING,
        ("sft", 1),
    ),
    Example(
        "and then nothing starts",
        observed(sft=[ended(STOPPED)], suspend=True),
        State.SUSPENDED,
    ),
    Example(
        "nor after a crash", observed(sft=[ended(1)], suspend=True), State.SUSPENDED
    ),
    Example(
        "nor the next stage", observed(results=(SFT,), suspend=True), State.SUSPENDED
    ),
    Example(
        "continuing starts a new attempt",
        observed(sft=[ended(STOPPED)]),
        State.RUNNING,
        start("sft", 2),
    ),
    Example(
        "no step for too long is stopped",
        observed(sft=[running(has_stepped=False)]),
        State.STOPPING,
        ("sft", 1),
        now=101,
    ),
    Example("a first step ends that worry", observed(sft=[running()]), State.RUNNING, now=101),
    Example(
        "an attempt without a step counts though it saved itself",
        observed(
            sft=[
                ended(STOPPED, n, started_at=200 * n, ended_at=200 * n + 101, has_stepped=False)
                for n in range(1, 4)
            ]
        ),
        State.FAILED,
        now=5000,
    ),
    Example(
        "a stage that runs too long is stopped",
        observed(sft=[running()]),
        State.STOPPING,
        ("sft", 1),
        now=1001,
    ),
    Example(
        "and fails",
        observed(sft=[ended(STOPPED, ended_at=1001)]),
        State.FAILED,
        now=1001,
    ),
    Example(
        "its attempts count together",
        observed(sft=[ended(STOPPED, 1, 0, 600), running(2, started_at=600)]),
        State.STOPPING,
        ("sft", 2),
        now=1001,
    ),
    Example(
        "but not the time between them",
        observed(sft=[ended(STOPPED, 1, 0, 600), running(2, started_at=9000)]),
        State.RUNNING,
        now=9300,
    ),
    Example(
        "nor attempts of which no times are known",
        observed(sft=[interrupted(1), running(2, started_at=9000)]),
        State.RUNNING,
        now=9300,
    ),
)  # fmt: skip
