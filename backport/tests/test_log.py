"""The warning that a pool logs when a task fails with WorkerLostError."""

import logging
import multiprocessing

import pytest
from conftest import TIMEOUT
from multiprocessing_initret import WorkerLostError
from pool_support import check_pool, exit_at_three


def test_worker_lost_error_is_a_process_error():
    assert issubclass(WorkerLostError, multiprocessing.ProcessError)
    assert WorkerLostError.__module__ == "multiprocessing_initret"


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
