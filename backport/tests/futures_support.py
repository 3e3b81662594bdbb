"""Helpers that the tests of executors share: the kinds of executors, and functions to run.

A worker of an InterpreterPoolExecutor cannot import this module.  It receives the code of a
function, so the functions here must use neither global variables nor closures.
"""

import concurrent.futures
import gc
import multiprocessing
import sys
import threading

import pytest
from conftest import START_METHODS, TIMEOUT, wait_until
from multiprocessing_initret import futures

INTERPRETERS = ["interpreters"] if hasattr(concurrent.futures, "InterpreterPoolExecutor") else []
KINDS = START_METHODS + ["threads"] + INTERPRETERS
NAMES = [name for name in dir(concurrent.futures) if name.endswith("PoolExecutor")]

with_initializers = pytest.mark.skipif(
    sys.version_info < (3, 7), reason="executors have no initializer"
)


@pytest.fixture(params=KINDS)
def kind(request):
    yield request.param
    if request.param == "interpreters":
        # When a process that has several forks, the child crashes (gh-139759).
        gc.collect()
        wait_until(lambda: len(concurrent.interpreters.list_all()) == 1)


def make(kind, workers, initializer, initargs=(), standard=False, **kwds):
    """Return an executor of a kind, with ``expect_initret`` unless told otherwise."""
    module = concurrent.futures if standard else futures
    if not standard:
        kwds.setdefault("expect_initret", True)
    if kind in START_METHODS:
        kwds["mp_context"] = multiprocessing.get_context(kind)
        executor = module.ProcessPoolExecutor
    elif kind == "threads":
        executor = module.ThreadPoolExecutor
    else:
        executor = module.InterpreterPoolExecutor
    return executor(workers, initializer=initializer, initargs=initargs, **kwds)


def join_other_threads(threads):
    """Wait until the threads of executors, all but *threads*, have ended."""
    for thread in set(threading.enumerate()) - threads:
        thread.join(TIMEOUT)


def identity(value):
    return value


def add(item, initret):
    return item + initret


def fail():
    raise LookupError("no luck")


def fail_with(text):
    raise LookupError(text)
