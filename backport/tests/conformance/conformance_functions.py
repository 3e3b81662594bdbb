"""Initializers and functions that the conformance tests pass to their pools."""

import os
import sys
import threading
import weakref

from conformance_base import support, warnings_helper

TIMEOUT = support.LONG_TIMEOUT

# All methods with which a pool calls a function.
MAP_METHODS = ("map", "map_async", "imap", "imap_unordered", "starmap", "starmap_async")
METHODS = ("apply", "apply_async") + MAP_METHODS


def call_with_items(pool, name, func, items, **options):
    """Call a function with each item, by the pool's method of that name, and return the results."""
    method = getattr(pool, name)
    if name == "apply":
        return [method(func, (item,)) for item in items]
    if name == "apply_async":
        results = [method(func, (item,), **options) for item in items]
        return [result.get(TIMEOUT) for result in results]
    if name.startswith("starmap"):
        items = [(item,) for item in items]
    result = method(func, items, **options)
    if name.endswith("_async"):
        return result.get(TIMEOUT)
    return sorted(result) if name == "imap_unordered" else list(result)


class InitretMixin:
    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def new_pool(self, *args, expect_initret=True, **kwds):
        """Return a pool that is terminated and joined at the end of the test."""
        pool = self.Pool(*args, expect_initret=expect_initret, **kwds)
        self.addCleanup(pool.join)
        self.addCleanup(pool.terminate)
        return pool


class SharedPoolMixin(InitretMixin):
    """Tests that share one pool of two workers."""

    @classmethod
    @warnings_helper.ignore_fork_in_thread_deprecation_warnings()
    def setUpClass(cls):
        super().setUpClass()
        cls.pool = cls.Pool(2, *cls.initializer, expect_initret=True)

    @classmethod
    def tearDownClass(cls):
        cls.pool.close()
        cls.pool.join()
        del cls.pool
        super().tearDownClass()


def current_worker():
    """Return the process and the thread that call this function."""
    return os.getpid(), threading.get_ident()


#
# Objects
#


class InitializerError(Exception):
    pass


class Unpicklable:
    def __reduce__(self):
        raise TypeError("cannot pickle this object")


class UnpicklableError(Unpicklable, Exception):
    pass


class UseCounter(Unpicklable):
    """An initret that records the worker which made it, and counts how often it is used."""

    def __init__(self, barrier=None):
        self.worker = current_worker()
        self.token = os.urandom(8)
        self.uses = 0
        self.barrier = barrier


class RaisingIterable:
    """Has a length of two, but raises an exception instead of yielding the second item."""

    def __len__(self):
        return 2

    def __iter__(self):
        yield (0,)
        raise LookupError("no second item")


#
# Initializers
#


def return_value(value):
    return value


def count_and_return(calls, value):
    calls.release()
    return value


def make_and_record(counters):
    """Return a new object, and append a weak reference to it to a list."""
    counter = UseCounter()
    counters.append(weakref.ref(counter))
    return counter


def fail(*args):
    raise InitializerError("failed", *args)


def fail_with_pid():
    raise InitializerError(os.getpid())


def fail_unpicklably():
    raise UnpicklableError("failed")


def wait_and_exit(event):
    event.wait(TIMEOUT)
    sys.exit()


def count_and_fail(calls):
    calls.release()
    fail()


def fail_first_calls(calls, failures):
    """Fail in the first calls, as many as are asked for, then return the number of calls."""
    calls.value += 1
    if calls.value <= failures:
        fail(calls.value)
    return calls.value


#
# Functions for the pool to call
#


def add(item, initret):
    return item + initret


def describe(*args, initret, **kwds):
    return args, kwds, initret


def keyword_only(item, *, initret):
    return item, initret


def with_default(item, initret="default"):
    return item, initret


def without_initret(item):
    return item


def any_keyword(item, **kwds):
    return item, kwds


def is_initret(value, initret):
    return type(initret) is type(value) and initret == value


def raise_stop_iteration(item, initret):
    raise StopIteration


def raise_value_error(item, initret):
    raise ValueError(item, initret)


def use(item, initret):
    """Use a UseCounter, and return what identifies it, its worker and this worker."""
    initret.uses += 1
    return initret.token, initret.worker, current_worker(), id(initret), initret.uses


def use_together(item, initret):
    """Use a UseCounter when every worker of the pool runs this function."""
    initret.barrier.wait(TIMEOUT)
    return use(item, initret)


def get_token(initret):
    return initret.token


def exit_abruptly(initret):
    os._exit(1)


def wait_for_event(item, initret):
    return initret.wait(TIMEOUT)


class Adder:
    def __init__(self, number):
        self.number = number

    def method(self, item, initret):
        return self.number + item + initret

    __call__ = method


class Arguments:
    """A class that a pool calls like a function."""

    def __init__(self, item, initret):
        self.item_and_initret = item, initret

    def __eq__(self, other):
        return self.item_and_initret == other.item_and_initret
