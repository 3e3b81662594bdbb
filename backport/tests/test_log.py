"""WorkerLostError as an object, and what the package logs."""

import logging
import multiprocessing
import pickle

import multiprocessing_initret
import pytest
from conftest import TIMEOUT
from multiprocessing_initret import WorkerLostError
from pool_support import check_pool, exit_at_three, sys_exit_at_three


def test_worker_lost_error_can_be_pickled():
    error = WorkerLostError("no luck", 3, 1234, "PoolWorker-1")
    assert isinstance(error, multiprocessing.ProcessError)
    assert WorkerLostError.__module__ == "multiprocessing_initret"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is WorkerLostError and str(copy) == str(error) == "no luck"
    assert (copy.exitcode, copy.pid, copy.name) == (3, 1234, "PoolWorker-1")


def lose_task_of_nested_pool(initret):
    pool = multiprocessing_initret.ThreadPool(1, int, expect_initret=True)
    pool.apply(sys_exit_at_three, (3,))


def test_worker_lost_error_crosses_processes(make_pool):
    pool = make_pool(1)
    with pytest.raises(WorkerLostError, match="SystemExit"):
        pool.apply_async(lose_task_of_nested_pool).get(TIMEOUT)


class LogLines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def log():
    """Return a list of what multiprocessing logs during the test: levels and messages."""
    logger, handler = multiprocessing.get_logger(), LogLines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_log_of_a_lost_worker(make_pool, log):
    pool = make_pool(1)
    with pytest.raises(WorkerLostError) as caught:
        pool.apply_async(exit_at_three, (3, "SIGKILL")).get(TIMEOUT)
    check_pool(pool)
    assert log == [("WARNING", str(caught.value))]


FAILING_INITIALIZER = """
import multiprocessing, sys
import multiprocessing_initret

def fail():
    raise LookupError("no luck")

def return_initret(initret):
    return initret

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = multiprocessing_initret.Pool(1, fail, context=context, expect_initret=True)
    for _ in range(3):
        try:
            pool.apply(return_initret)
        except LookupError:
            pass
        else:
            raise AssertionError
    pool.close()
    pool.join()
    sys.exit(1)
"""


def test_log_of_a_failing_initializer(python, tmp_path, start_method):
    (tmp_path / "program.py").write_text(FAILING_INITIALIZER)
    stderr = python("program.py", start_method, code=1)
    # By default the warning is seen on stderr, once in each worker.
    assert stderr.startswith("initializer failed; it will be called again for the next task\n")
    assert stderr.count("Traceback (most recent call last)") == 1
    assert stderr.endswith("LookupError: no luck\n")
