"""Base classes of the tests that run under each start method, with processes, threads and managers.

They have the names and the interface of CPython's test._test_multiprocessing and
test.support, as far as our tests need them, on every Python since 3.6.
"""

import contextlib
import gc
import multiprocessing
import multiprocessing.dummy
import sys
import threading
import types
import unittest
import warnings


class support:
    LONG_TIMEOUT = 60  # seconds

    @staticmethod
    def gc_collect():
        for _ in range(3):
            gc.collect()

    @staticmethod
    def catch_unraisable_exception():
        return _replace_hook(sys, "unraisablehook")


class threading_helper:
    @staticmethod
    def catch_threading_exception():
        return _replace_hook(threading, "excepthook")


class warnings_helper:
    @staticmethod
    @contextlib.contextmanager
    def ignore_fork_in_thread_deprecation_warnings():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
            yield


@contextlib.contextmanager
def _replace_hook(module, name):
    """Record the exception type that a hook for unhandled exceptions receives."""
    if not hasattr(module, name):
        raise unittest.SkipTest(f"no {module.__name__}.{name} before Python 3.8")
    caught = types.SimpleNamespace(unraisable=None, exc_type=None)

    def record(args):
        caught.unraisable = caught.exc_type = args.exc_type

    before = getattr(module, name)
    setattr(module, name, record)
    try:
        yield caught
    finally:
        setattr(module, name, before)


class BaseTestCase:
    ALLOWED_TYPES = "processes", "manager", "threads"
    START_METHODS = set()


class ProcessesMixin:
    TYPE = "processes"
    Barrier = staticmethod(multiprocessing.Barrier)
    Event = staticmethod(multiprocessing.Event)
    Pool = staticmethod(multiprocessing.Pool)
    Semaphore = staticmethod(multiprocessing.Semaphore)
    Value = staticmethod(multiprocessing.Value)


class ThreadsMixin:
    TYPE = "threads"
    Barrier = staticmethod(multiprocessing.dummy.Barrier)
    Event = staticmethod(multiprocessing.dummy.Event)
    Pool = staticmethod(multiprocessing.dummy.Pool)
    Semaphore = staticmethod(multiprocessing.dummy.Semaphore)
    Value = staticmethod(multiprocessing.dummy.Value)


class ManagerMixin:
    TYPE = "manager"

    @classmethod
    def setUpClass(cls):
        cls.manager = multiprocessing.Manager()
        cls.Pool = cls.manager.Pool

    @classmethod
    def tearDownClass(cls):
        del cls.Pool
        cls.manager.shutdown()


class StartMethodMixin:
    """Sets the start method of the class before anything else."""

    @classmethod
    def setUpClass(cls):
        cls.start_method_before = multiprocessing.get_start_method(allow_none=True)
        multiprocessing.set_start_method(cls.start_method, force=True)
        if cls.start_method == "forkserver":
            multiprocessing.set_forkserver_preload([__name__])
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        multiprocessing.set_start_method(cls.start_method_before, force=True)


def install_tests_in_module_dict(namespace):
    """Make test cases of a module's classes, for each start method and each type."""
    start_methods = multiprocessing.get_all_start_methods()
    if sys.platform == "darwin":
        start_methods.remove("fork")  # It may crash, and CPython does not test it (bpo-33725).
    bases = [
        base
        for base in namespace.values()
        if isinstance(base, type)
        and issubclass(base, BaseTestCase)
        and base.__module__ == namespace["__name__"]
    ]
    for base in bases:
        for start_method in start_methods:
            for mixin in ProcessesMixin, ManagerMixin, ThreadsMixin:
                if mixin.TYPE not in base.ALLOWED_TYPES:
                    continue
                if base.START_METHODS and start_method not in base.START_METHODS:
                    continue
                case = type(
                    f"{start_method.capitalize()}{mixin.TYPE.capitalize()}{base.__name__[1:]}",
                    (StartMethodMixin, base, mixin, unittest.TestCase),
                    {"__module__": base.__module__, "start_method": start_method},
                )
                namespace[case.__name__] = case
