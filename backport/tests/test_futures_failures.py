"""Initializers that fail break their executor: each future fails, with the traceback."""

import concurrent.futures
import contextlib
import gc
import logging
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool

import futures_support
import pytest
from conftest import START_METHODS, TIMEOUT, linux, wait_until
from futures_support import (
    add,
    fail,
    fail_with,
    identity,
    make,
    with_initializers,
)
from multiprocessing_initret._worker import executor as worker
from pool_support import wait_for_initret

kind = futures_support.kind  # a fixture


def check_broken(executor, submitted, text):
    """Check the exceptions of a broken executor's futures and methods."""
    for future in submitted:
        error = future.exception(TIMEOUT)
        assert isinstance(error, concurrent.futures.BrokenExecutor)
        assert type(error).__name__ == "Broken" + type(executor).__name__[: -len("Executor")]
        assert text in str(error) and "Traceback" in str(error)
    for _ in range(2):
        with pytest.raises(type(error)) as raised:
            executor.submit(add, 1)
        assert text in str(raised.value) and "Traceback" in str(raised.value)
    with pytest.raises(type(error)):
        list(executor.map(add, [1], timeout=TIMEOUT))


def submit_many(executor, fn, *args):
    """Submit tasks until the executor is broken.  It accepts the first one."""
    submitted = [executor.submit(fn, *args)]
    with contextlib.suppress(concurrent.futures.BrokenExecutor):
        for _ in range(20):
            submitted.append(executor.submit(fn, *args))
    return submitted


def fail_unpicklably():
    class UnpicklableError(Exception):
        def __init__(self, one, other):
            super().__init__(one)
            self.other = lambda: other

    raise UnpicklableError("no luck", 1)


def raise_system_exit():
    raise SystemExit("no luck")


@with_initializers
@pytest.mark.parametrize("initializer", [fail, fail_unpicklably, raise_system_exit])
def test_initializer_fails(kind, initializer):
    with make(kind, 2, initializer) as executor:
        check_broken(executor, submit_many(executor, add, 1), "no luck")
    # The manager thread has ended, after the standard class has set a reason of its own.
    with pytest.raises(concurrent.futures.BrokenExecutor, match="no luck"):
        executor.submit(add, 1)


@with_initializers
def test_traceback_is_long(kind):
    # It is longer than the capacity of a pipe, and several workers send it at once.
    text = "no luck " * 2**17
    with make(kind, 4, fail_with, (text,)) as executor:
        check_broken(executor, submit_many(executor, add, 1), text)


class Messages(list):
    put = list.append


def test_traceback_is_sent_in_parts():
    """A part is written to a pipe completely or not at all, as only small messages are."""
    messages = Messages()
    worker.send_traceback(messages, "\U0001f40d" * 10000)
    assert len(messages) > 10
    for message in messages:
        assert len(multiprocessing.reduction.ForkingPickler.dumps(message)) < 4000


class UnpicklableInWorker:
    """An object that can be pickled and called, but not unpickled."""

    def __reduce__(self):
        return fail_with, ("cannot be unpickled",)

    def __call__(self):
        pass


@with_initializers
@pytest.mark.parametrize(
    "initializer, initargs", [(identity, ([UnpicklableInWorker()],)), (UnpicklableInWorker(), ())]
)
def test_unpickling_fails(spawning_method, initializer, initargs):
    with make(spawning_method, 2, initializer, initargs) as executor:
        check_broken(executor, submit_many(executor, add, 1), "LookupError: cannot be unpickled")


#
# The log
#


class SlowHandler(logging.Handler):
    """A log handler so slow that a future would fail first if it did not wait for the log."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def emit(self, record):
        time.sleep(0.5)
        self.log.put(self.format(record))


def fail_with_slow_log(log):
    logger = logging.getLogger("concurrent.futures")
    logger.addHandler(SlowHandler(log))
    logger.propagate = False
    raise LookupError("no luck")


@with_initializers
def test_future_fails_after_the_worker_has_logged(start_method):
    log = multiprocessing.get_context(start_method).SimpleQueue()
    with make(start_method, 1, fail_with_slow_log, (log,)) as executor:
        assert executor.submit(add, 1).exception(TIMEOUT) is not None
        assert not log.empty()
        assert "LookupError: no luck" in log.get()


#
# Tasks that are added or cancelled, and executors that are shut down or collected
#


class SlowTasks(dict):
    """Tasks of an executor: adding one takes long enough for the executor to break meanwhile."""

    def __init__(self):
        self.listed = threading.Event()

    def __setitem__(self, number, item):
        if number:
            self.listed.wait(0.5)
        super().__setitem__(number, item)

    def __iter__(self):
        self.listed.set()
        return super().__iter__()

    def items(self):
        self.listed.set()
        return super().items()


def exit_at_once(*args, **kwds):
    os._exit(1)


@with_initializers
@pytest.mark.skipif(
    "fork" not in START_METHODS, reason="executors break later under other start methods"
)
@pytest.mark.parametrize("initializer, text", [(fail, "no luck"), (exit_at_once, "terminated")])
def test_task_is_added_while_the_executor_breaks(initializer, text):
    with make("fork", 1, initializer) as executor:
        executor._pending_work_items = SlowTasks()
        for future in submit_many(executor, add, 1):
            error = future.exception(TIMEOUT)
            assert isinstance(error, concurrent.futures.BrokenExecutor) and text in str(error)


def fail_later(path):
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    raise LookupError("no luck")


@with_initializers
def test_executor_is_collected_before_it_breaks(kind, tmp_path):
    path = tmp_path / "now"
    submitted = submit_many(make(kind, 2, fail_later, (str(path),)), add, 1)
    gc.collect()
    path.touch()
    for future in submitted:
        error = future.exception(TIMEOUT)
        assert isinstance(error, concurrent.futures.BrokenExecutor)
        assert "LookupError: no luck" in str(error)


@with_initializers
def test_no_tasks(kind):
    with make(kind, 2, fail):
        pass


@pytest.mark.skipif(sys.version_info < (3, 9), reason="the standard class loses such tasks")
def test_initializer_fails_after_shutdown(kind):
    executor = make(kind, 2, fail)
    submitted = submit_many(executor, add, 1)
    executor.shutdown(wait=False)
    for future in submitted:
        with pytest.raises(concurrent.futures.BrokenExecutor, match="no luck"):
            future.result(TIMEOUT)
    executor.shutdown()


@with_initializers
def test_some_tasks_are_cancelled(start_method):
    executor = make(start_method, 1, fail)
    submitted = submit_many(executor, add, 1)
    for future in submitted[::2]:
        future.cancel()
    if sys.version_info >= (3, 9):
        executor.shutdown(wait=False, cancel_futures=True)
    for future in submitted:
        if not future.cancelled():
            with pytest.raises(concurrent.futures.BrokenExecutor, match="no luck"):
                future.result(TIMEOUT)
    executor.shutdown()


@with_initializers
def test_wait_returns_cancelled_tasks(kind, tmp_path):
    path = tmp_path / "now"
    with make(kind, 1, fail_later, (str(path),)) as executor:
        submitted = submit_many(executor, add, 1)
        cancelled = [future.cancel() for future in submitted[::2]]
        assert any(cancelled)
        path.touch()
        done, not_done = concurrent.futures.wait(submitted, TIMEOUT)
        assert not not_done
        for future in done:
            assert future.cancelled() or "no luck" in str(future.exception())


@with_initializers
def test_callback_submits(kind):
    errors = []

    def submit(future):
        try:
            executor.submit(add, 1)
        except concurrent.futures.BrokenExecutor as error:
            errors.append(error)

    with make(kind, 1, fail) as executor:
        future = executor.submit(add, 1)
        future.add_done_callback(submit)
        check_broken(executor, [future], "no luck")
        wait_until(lambda: errors)


#
# Some workers fail, others work
#


def wait_or_fail(permits, event):
    if not permits.acquire(False):
        event.wait(TIMEOUT)
        raise LookupError("no luck")


@with_initializers
def test_thread_fails_after_shutdown_while_another_works():
    fail_now, finish = threading.Event(), threading.Event()
    executor = make("threads", 2, wait_or_fail, (threading.Semaphore(1), fail_now))
    running = executor.submit(lambda initret: finish.wait(TIMEOUT))
    wait_until(running.running)
    executor.submit(identity, 1)  # starts the other thread
    executor.shutdown(wait=False)
    fail_now.set()
    wait_until(lambda: sum(thread.is_alive() for thread in executor._threads) == 1)
    finish.set()
    for thread in executor._threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def succeed_while_permitted(permits, value):
    if not permits.acquire(False):
        raise LookupError("no luck")
    return value


def wait_for_event(initret):
    return initret.wait(TIMEOUT)


@with_initializers
def test_worker_fails_while_another_works(start_method):
    context = multiprocessing.get_context(start_method)
    initargs = context.Semaphore(1), context.Event()
    with make(start_method, 2, succeed_while_permitted, initargs) as executor:
        check_broken(executor, submit_many(executor, wait_for_event), "no luck")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no max_tasks_per_child")
def test_replacement_fails(spawning_method):
    initargs = multiprocessing.get_context(spawning_method).Semaphore(2), 40
    with make(
        spawning_method, 1, succeed_while_permitted, initargs, max_tasks_per_child=1
    ) as executor:
        for item in range(2):
            assert executor.submit(add, item).result(TIMEOUT) == 40 + item
        with pytest.raises(concurrent.futures.BrokenExecutor, match="no luck"):
            executor.submit(add, 1).result(TIMEOUT)


@with_initializers
def test_worker_exits_while_running_a_task(start_method):
    with make(start_method, 1, identity, (40,)) as executor:
        with pytest.raises(concurrent.futures.BrokenExecutor) as raised:
            executor.submit(exit_at_once).result(TIMEOUT)
        assert "initialize" not in str(raised.value)
        with pytest.raises(concurrent.futures.BrokenExecutor) as raised:
            executor.submit(add, 1)
        assert "initialize" not in str(raised.value)


#
# The pipe that wakes the manager thread is full, and submit() holds the lock of the executor
#


def fail_as_second_worker(permits, begun, may_end):
    if not permits.acquire(False):
        assert begun.wait(TIMEOUT)
        raise LookupError("no luck")
    return may_end


@linux
@pytest.mark.skipif(sys.version_info < (3, 13), reason="the standard class hangs (gh-105829)")
def test_initializer_fails_while_submit_waits():
    context = multiprocessing.get_context("fork")
    begun, may_end = context.Event(), context.Event()
    submitted = []

    def callback(_):
        begun.set()
        wait_until(lambda: len(submitted) >= 65536 // 4)

    def submit():
        with contextlib.suppress(BrokenProcessPool):
            while len(submitted) < 20000:
                submitted.append(executor.submit(identity, 1))

    initargs = context.Semaphore(1), begun, may_end
    executor = make("fork", 2, fail_as_second_worker, initargs)
    executor.submit(wait_for_initret).add_done_callback(callback)
    may_end.set()
    assert begun.wait(TIMEOUT)
    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    for future in submitted:
        assert isinstance(future.exception(TIMEOUT), (TypeError, BrokenProcessPool))
    executor.shutdown()


@linux
@pytest.mark.skipif(sys.version_info < (3, 13), reason="the standard class hangs (gh-105829)")
def test_initializer_fails_while_the_pipe_is_filled():
    executor = make("fork", 1, identity, (40,))
    assert executor.submit(add, 1).result(TIMEOUT) == 41

    def fill():
        with executor._shutdown_lock:  # as submit() does
            worker.send_traceback(executor._result_queue, "no luck")
            for _ in range(60000):
                executor._executor_manager_thread_wakeup.wakeup()

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    executor._executor_manager_thread.join(TIMEOUT)
    with pytest.raises(BrokenProcessPool, match="no luck"):
        executor.submit(add, 1)
    executor.shutdown()
