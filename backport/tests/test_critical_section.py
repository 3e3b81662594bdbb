"""Critical sections, in which a thread must not terminate the pool, and start_thread()."""

import _thread
import threading

import pytest
from conftest import TIMEOUT, call_with_timeout
from multiprocessing_initret._parent.critical_section import CriticalSection, start_thread


@pytest.fixture
def section():
    return CriticalSection()


def test_outside_and_inside(section):
    assert not section.is_entered()
    with section:
        assert section.is_entered()
    assert not section.is_entered()


def test_called_function(section):
    with section:
        assert (lambda: section.is_entered())()


def test_nested(section):
    with section:
        with section:
            assert section.is_entered()
        assert section.is_entered()
    assert not section.is_entered()


def test_exception(section):
    with pytest.raises(LookupError), section:
        raise LookupError
    assert not section.is_entered()


def test_interrupted(section):
    """A function that has returned is not in the section, even if it did not call __exit__()."""

    def enter():
        section.__enter__()

    enter()
    assert not section.is_entered()


def test_other_thread(section):
    with section:
        assert not call_with_timeout(section.is_entered)


def test_sender(section):
    section.sender = threading.get_ident()
    assert section.is_entered()
    assert not call_with_timeout(section.is_entered)


def test_sections_of_other_pools(section):
    """A thread that starts a worker of one pool must not terminate another pool."""
    with CriticalSection():
        assert section.is_entered()


def test_forked_child(section):
    """A worker is forked in the section, and never leaves it."""
    section.__enter__()
    section.sender = threading.get_ident()
    section.leave_in_child()
    assert not section.is_entered()


def test_forked_child_leaves_the_section(section):
    """A signal handler, or a __reduce__() method, may call os.fork() in the section."""
    with section:
        section.leave_in_child()
    assert not section.is_entered()


def test_start_thread():
    threads, is_called = [], threading.Event()

    def function():
        threads.append(threading.current_thread())
        is_called.set()

    start_thread(function)
    assert is_called.wait(TIMEOUT)
    assert threads[0] is not threading.current_thread() and threads[0].daemon


def test_start_thread_in_a_thread_that_holds_the_lock_of_the_module_threading():
    """threading.enumerate() holds this lock, and the garbage collector may run in it."""
    is_called = threading.Event()

    def call():
        with threading._active_limbo_lock:
            start_thread(is_called.set)

    call_with_timeout(call)
    assert is_called.wait(TIMEOUT)


def refuse(*args, **kwargs):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    "owner, name", [(_thread, "start_new_thread"), (threading.Thread, "start")]
)
def test_no_more_threads(monkeypatch, owner, name):
    is_called = threading.Event()
    monkeypatch.setattr(owner, name, refuse)
    start_thread(is_called.set)
    assert is_called.wait(TIMEOUT)
