"""WorkerLostError, and what is logged."""

import logging
import multiprocessing
import pickle

import multiprocessing_initret
import pytest
from conftest import TIMEOUT
from multiprocessing_initret import WorkerLostError
from pool_support import check, exit_at_three, leave_at_three


def test_error():
    error = WorkerLostError("no luck")
    assert isinstance(error, multiprocessing.ProcessError)
    assert WorkerLostError.__module__ == "multiprocessing_initret"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is WorkerLostError and copy.args == error.args == ("no luck",)


def lose_one_in_a_pool_of_its_own(path, initret):
    pool = multiprocessing_initret.ThreadPool(1, int, expect_initret=True)
    pool.apply(exit_at_three, (3,))


def test_error_crosses_processes(make):
    pool = make(1)
    with pytest.raises(WorkerLostError, match="SystemExit"):
        pool.apply_async(lose_one_in_a_pool_of_its_own, (1,)).get(TIMEOUT)


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def log():
    logger, handler = multiprocessing.get_logger(), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_log_of_a_lost_worker(make, log):
    pool = make(1)
    with pytest.raises(WorkerLostError) as caught:
        pool.apply_async(leave_at_three, (3, "SIGKILL")).get(TIMEOUT)
    check(pool)
    assert log == [("WARNING", str(caught.value))]
