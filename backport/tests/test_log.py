"""Messages that are logged when an initializer fails, a worker exits, or a pool breaks."""

import logging
import multiprocessing

import pytest
from multiprocessing_initret import ThreadPool, WorkerLostError
from pool_support import (
    FullLog,
    add,
    check_pool,
    create_pool,
    end_pool,
    error_of,
    exit_at_three,
    raise_lookup_error,
)

LOGGED = "initializer failed; it will be called again for the next task"

FAILS = """
import multiprocessing, os, sys
import multiprocessing_initret

def fail():
    raise LookupError("no luck")

def add(item, initret):
    return item + initret

if __name__ == "__main__":
    os.dup2(1, 2)
    if sys.argv[1] == "threads":
        pool = multiprocessing_initret.ThreadPool(2, fail, expect_initret=True)
    else:
        context = multiprocessing.get_context(sys.argv[1])
        pool = multiprocessing_initret.Pool(2, fail, context=context, expect_initret=True)
    results = [pool.apply_async(add, (item,)) for item in range(6)]
    for result in results:
        try:
            result.get(60)
        except LookupError:
            print("the task failed", flush=True)
    pool.close()
    pool.join()
"""


@pytest.mark.parametrize("kind", ["threads", *multiprocessing.get_all_start_methods()])
def test_each_worker_logs_it_once(python, tmp_path, kind):
    """The warning is printed by default, with a traceback, and not repeated for each task."""
    (tmp_path / "program.py").write_text(FAILS)
    output = python("program.py", kind)
    assert output.count("the task failed") == 6
    assert output.count(LOGGED) == 2
    assert output.count("Traceback (most recent call last)") == 2
    assert output.count("LookupError: no luck") == 2


def test_record_of_a_failed_initializer(log):
    pool = ThreadPool(1, raise_lookup_error, expect_initret=True)
    assert isinstance(error_of(pool.apply_async(add, (1,))), LookupError)
    end_pool(pool)
    [record] = log
    assert record.levelno == logging.WARNING and record.getMessage() == LOGGED
    assert record.exc_info[0] is LookupError


def fail_with_full_log():
    multiprocessing.get_logger().addHandler(FullLog(SystemExit))
    raise LookupError("no luck")


def test_handler_that_raises_in_a_worker(start_method):
    """The worker continues, and each task fails with the exception of the initializer."""
    pool = create_pool(start_method, 1, fail_with_full_log, ())
    try:
        [worker] = list(pool._pool)
        for _ in range(3):
            assert isinstance(error_of(pool.apply_async(add, (1,))), LookupError)
        assert list(pool._pool) == [worker]
    finally:
        end_pool(pool)


def test_handler_that_raises_in_a_thread(add_log_handler):
    add_log_handler(FullLog(SystemExit))
    pool = ThreadPool(1, raise_lookup_error, expect_initret=True)
    for _ in range(3):
        assert isinstance(error_of(pool.apply_async(add, (1,))), LookupError)
    end_pool(pool)


def test_record_of_a_lost_worker(make_pool, log):
    """The record has the text of the task's exception."""
    pool = make_pool(1)
    error = error_of(pool.apply_async(exit_at_three, (3, "SIGKILL")))
    assert type(error) is WorkerLostError
    check_pool(pool)
    [record] = log
    assert record.levelno == logging.WARNING and record.getMessage() == str(error)


NO_GUARD = """
import multiprocessing, os, sys
import multiprocessing_initret

os.dup2(1, 2)
if __name__ != "__main__":
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the tracebacks of the workers
if sys.argv[1] == "log":
    multiprocessing.log_to_stderr()
context = multiprocessing.get_context("spawn")
pool = multiprocessing_initret.Pool(2, int, context=context, expect_initret=True)
for result in [pool.map_async(abs, range(100), chunksize=1) for _ in range(10)]:
    result.wait(60)
    assert not result.successful()
pool.close()
pool.join()
"""


@pytest.mark.parametrize("has_log", [True, False])
def test_pool_that_breaks_writes_little(python, tmp_path, has_log):
    (tmp_path / "program.py").write_text(NO_GUARD)
    output = python("program.py", "log" if has_log else "")
    # The resource tracker may add warnings of its own.
    lines = [line for line in output.splitlines() if "resource_tracker" not in line]
    lines = [line for line in lines if not line.startswith("  warnings.warn(")]
    assert has_log <= len(lines) <= 3 * has_log, lines
    assert all("the pool is broken" in line for line in lines)
