"""The pool of evaluators: deadlines, crashes and ends, with real processes."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from prism_trainer.rewards.pool import EvaluatorPool, evaluate
from prism_trainer.rewards.values import Evaluation, Failure
from prism_trainer.rewards.worker_process import WorkerLimits

SLOW = "10 10 9 ^ ^ sin"
"""The sine of 10^(10^9): hours of processor time for the digits of pi."""
LARGE = "9 9 9 9 ^ ^ ^ ^"
"""A number whose exponent does not fit into memory."""
FAST = [f"{n} {n} *" for n in range(50)]
QUICK = WorkerLimits(cpu_seconds=0.3, memory_bytes=300 * 2**20)


@pytest.fixture
def make_pool() -> Iterator[Callable[..., EvaluatorPool]]:
    pools: list[EvaluatorPool] = []

    def make(workers: int = 1, limits: WorkerLimits = QUICK) -> EvaluatorPool:
        pools.append(EvaluatorPool(workers, limits))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [
        child
        for child in process.children(recursive=True)
        if "prism_trainer.rewards.worker" in child.cmdline()
    ]


@pytest.fixture
def my_workers() -> Callable[[], list[psutil.Process]]:
    """The workers that were started since the test began; those of the shared pool may be older."""
    older = {worker.pid for worker in workers_of(psutil.Process())}
    return lambda: [w for w in workers_of(psutil.Process()) if w.pid not in older]


Workers = Callable[[], list[psutil.Process]]
MakePool = Callable[..., EvaluatorPool]


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def assert_evaluated(results: dict[str, Evaluation], formulas: list[str]) -> None:
    for formula in formulas:
        factor = int(formula.split()[0])
        assert results[formula] == ((Decimal(factor**2), Decimal(0)),)


def test_formulas_are_evaluated_by_as_many_workers_as_there_may_be(
    make_pool: MakePool, my_workers: Workers
) -> None:
    pool = make_pool(workers=2)
    assert not my_workers(), "workers start with the first formula"
    assert_evaluated(pool.evaluate(FAST), FAST)
    assert len(my_workers()) == 2
    pool.close()
    assert not my_workers()
    assert_evaluated(pool.evaluate(["3 3 *"]), ["3 3 *"])


def test_the_shared_pool_does_not_start_for_nothing(my_workers: Workers) -> None:
    assert evaluate([]) == {}
    assert not my_workers()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_costly_formulas_harm_no_other_whatever_the_number_of_workers(
    make_pool: MakePool, workers: int
) -> None:
    formulas = [*FAST[:20], SLOW, *FAST[20:40], LARGE, *FAST[40:]]
    results = make_pool(workers).evaluate(formulas)
    assert results[SLOW] is Failure.TOO_COSTLY
    assert results[LARGE] is Failure.TOO_COSTLY
    assert_evaluated(results, FAST)


def test_the_deadline_counts_the_processor_time_of_the_formula_only(
    make_pool: MakePool, my_workers: Workers
) -> None:
    """A worker that is stopped for longer than its deadline has lost nothing."""
    pool = make_pool(limits=WorkerLimits(cpu_seconds=1.0))
    pool.evaluate(["1 1 +"])
    (worker,) = my_workers()
    results: dict[str, Evaluation] = {}
    moderate = "10 20000 ^ sin"
    thread = threading.Thread(target=lambda: results.update(pool.evaluate([moderate])))
    thread.start()
    worker.suspend()
    time.sleep(1.5)
    worker.resume()
    thread.join()
    assert not isinstance(results[moderate], Failure)


def test_the_deadline_holds_where_the_parent_ignores_and_blocks_its_signal(
    make_pool: MakePool,
) -> None:
    handler = signal.signal(signal.SIGPROF, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
    try:
        assert make_pool().evaluate([SLOW]) == {SLOW: Failure.TOO_COSTLY}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGPROF, handler)


def test_workers_of_a_thread_that_ended_are_replaced(make_pool: MakePool) -> None:
    """The kernel ends them with the thread that started them."""
    pool = make_pool()
    thread = threading.Thread(target=lambda: pool.evaluate(["1 1 +"]))
    thread.start()
    thread.join()
    assert_evaluated(pool.evaluate(FAST), FAST)


def test_a_worker_that_hangs_is_killed_and_its_formula_tried_again(
    make_pool: MakePool, my_workers: Workers
) -> None:
    pool = make_pool(limits=WorkerLimits(wall_seconds=1.0))
    pool.evaluate(["1 1 +"])
    (worker,) = my_workers()
    worker.suspend()
    assert_evaluated(pool.evaluate(FAST), FAST)
    assert not worker.is_running()


def test_a_machine_that_never_gets_anywhere_is_the_verifiers_failure(
    make_pool: MakePool, my_workers: Workers
) -> None:
    limits = WorkerLimits(cpu_seconds=60.0, wall_seconds=0.5)
    results = make_pool(limits=limits).evaluate([SLOW, *FAST])
    assert results[SLOW] is Failure.VERIFIER_FAILED
    assert_evaluated(results, FAST)


def test_a_worker_that_was_killed_while_idle_is_replaced(
    make_pool: MakePool, my_workers: Workers
) -> None:
    pool = make_pool()
    pool.evaluate(["1 1 +"])
    (worker,) = my_workers()
    worker.kill()
    wait_until(lambda: worker.status() == psutil.STATUS_ZOMBIE)
    assert_evaluated(pool.evaluate(FAST), FAST)


def test_a_formula_is_only_evaluated_once(make_pool: MakePool, my_workers: Workers) -> None:
    pool = make_pool()
    first = pool.evaluate([SLOW, FAST[3]])
    workers = {worker.pid for worker in my_workers()}
    assert pool.evaluate([FAST[3], SLOW, SLOW]) == first
    assert {worker.pid for worker in my_workers()} == workers, "nothing was killed again"


@pytest.mark.parametrize("program", ["import sys; sys.exit(1)", "import no_such_module"])
def test_workers_that_cannot_start_are_the_verifiers_failure(
    make_pool: MakePool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    program: str,
) -> None:
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" 2>/dev/null\n')
    broken.chmod(0o755)
    pool = make_pool(workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(broken))
        assert set(pool.evaluate(FAST).values()) == {Failure.VERIFIER_FAILED}
        patch.setattr(sys, "executable", str(tmp_path / "missing"))
        assert set(pool.evaluate(FAST).values()) == {Failure.VERIFIER_FAILED}
    assert_evaluated(pool.evaluate(FAST), FAST)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler of Ctrl-C: jobs in the background of a shell start without it."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_what_runs_and_the_next_call_works(
    make_pool: MakePool, my_workers: Workers
) -> None:
    pool = make_pool(limits=WorkerLimits(cpu_seconds=60.0))
    pool.evaluate(["1 1 +"])
    (worker,) = my_workers()
    before = worker.cpu_times().user
    me = os.getpid()

    def interrupt() -> None:
        wait_until(lambda: worker.cpu_times().user > before + 0.1)
        os.kill(me, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        pool.evaluate([SLOW, *FAST])
    thread.join()
    assert not worker.is_running()
    assert_evaluated(pool.evaluate(FAST), FAST)


def test_a_terminals_ctrl_c_leaves_the_workers_to_their_parent(
    make_pool: MakePool, my_workers: Workers
) -> None:
    pool = make_pool()
    pool.evaluate(["1 1 +"])
    (worker,) = my_workers()
    worker.send_signal(signal.SIGINT)
    assert_evaluated(pool.evaluate(FAST), FAST)
    assert worker.is_running()


def test_threads_take_turns(make_pool: MakePool) -> None:
    pool = make_pool(workers=2)
    results: list[dict[str, Evaluation]] = []
    threads = [
        threading.Thread(target=lambda: results.append(pool.evaluate(FAST))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert_evaluated(result, FAST)
    assert len(results) == 4


PARENT = """
from prism_trainer.rewards.pool import EvaluatorPool
from prism_trainer.rewards.worker_process import WorkerLimits
pool = EvaluatorPool(2, WorkerLimits(cpu_seconds=600.0))
pool.evaluate(["1 1 +", "1 2 +"])
print("started", flush=True)
pool.evaluate(["{slow}", "{slow} 1 +"])
"""


def test_no_worker_outlives_a_parent_that_was_killed() -> None:
    program = [sys.executable, "-c", PARENT.format(slow=SLOW)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        workers = workers_of(psutil.Process(parent.pid))
        assert len(workers) == 2
        parent.kill()
    wait_until(lambda: not any(worker.is_running() for worker in workers))


def test_a_program_that_ends_normally_leaves_no_worker_and_no_message() -> None:
    program = "from prism_trainer.rewards.verifier import verify; print(verify('2^3', '8'))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("right\n", "")


FORK = """
import os, psutil
from prism_trainer.rewards.pool import evaluate
evaluate(["2 2 *"])
workers = {child.pid for child in psutil.Process().children()}
if not (child := os.fork()):
    evaluate(["3 3 *"])
    raise SystemExit
os.waitpid(child, 0)
evaluate(["4 4 *"])
print(workers == {child.pid for child in psutil.Process().children()})
"""


def test_a_forked_child_has_a_pool_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_worker_loads_no_torch_and_little_memory(
    make_pool: MakePool, my_workers: Workers
) -> None:
    pool = make_pool()
    pool.evaluate(["1 1 +"])
    (worker,) = my_workers()
    mapped = " ".join(region.path for region in worker.memory_maps())
    assert "torch" not in mapped
    assert "numpy" not in mapped
    assert worker.memory_info().rss < 100 * 2**20
    assert worker.rlimit(resource.RLIMIT_CORE) == (0, 0)


def test_a_worker_is_replaced_before_anything_can_pile_up(
    make_pool: MakePool, my_workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prism_trainer.rewards.pool._FORMULAS_PER_WORKER", 10)
    pool = make_pool()
    pool.evaluate(["1 1 +"])
    (worker,) = my_workers()
    assert_evaluated(pool.evaluate(FAST), FAST)
    assert not worker.is_running()
