"""Ctrl-C while workers start, and while a pool is terminated or joined."""

import pytest
from conftest import posix

pytestmark = posix

# A terminal sends SIGINT to the whole process group.
START = """
import multiprocessing, os, signal, sys, time
import multiprocessing_initret

if __name__ != "__main__":
    time.sleep(0.3)  # a main module that takes its time, so that workers are interrupted in it

def add(item, initret):
    return item + initret

def is_replaced(pool, workers):
    return len(pool._pool) == 4 and set(workers) != set(pool._pool)

def run_tasks(pool):
    for _ in range(5):
        try:
            return pool.map_async(add, range(3)).get(50)
        except multiprocessing_initret.WorkerLostError as error:
            last = error  # a worker that had survived has exited while it received a task
    return last

if __name__ == "__main__":
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the tracebacks of the workers
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    context = multiprocessing.get_context(sys.argv[1])
    pool = multiprocessing_initret.Pool(4, int, (40,), context=context, expect_initret=True)
    if sys.argv[3] == "used":
        pool.map(add, range(8), chunksize=1)
    interrupts = 0
    for _ in range(int(sys.argv[2])):
        workers = list(pool._pool)
        try:
            os.killpg(0, signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            interrupts += 1
        # A worker may survive so far: Python calls the handler of a signal that arrives just
        # before a system call blocks only when that call returns.
        deadline = time.monotonic() + 5
        while not is_replaced(pool, workers) and time.monotonic() < deadline:
            time.sleep(0.001)
    found = run_tasks(pool)
    pool.terminate()
    pool.join()
    print(interrupts, found)  # not earlier: a worker forked now would print it, too, when it exits
"""


@pytest.mark.parametrize("use", ["new", "used"])
@pytest.mark.parametrize("times", [1, 2])
def test_while_workers_start(python, tmp_path, start_method, times, use):
    (tmp_path / "program.py").write_text(START)
    assert python("program.py", start_method, str(times), use) == f"{times} [40, 41, 42]\n"


CHILD = """
import builtins, os, sys
import multiprocessing, multiprocessing_initret

def add(number, initret):
    return number + initret

fork, count = os.fork, 0

def fork_and_interrupt():
    global count
    count += 1
    pid = fork()
    if pid == 0 and count == 3:
        raise getattr(builtins, sys.argv[1])
    return pid

def run_tasks(pool):
    for _ in range(9):
        try:
            return pool.map_async(add, range(3)).get(50)
        except multiprocessing_initret.WorkerLostError:
            pass

if __name__ == "__main__":
    os.fork = fork_and_interrupt
    context = multiprocessing.get_context("fork")
    with multiprocessing_initret.Pool(4, int, (40,), context=context, expect_initret=True) as pool:
        found = run_tasks(pool)
    print(found)
"""


@posix
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "OSError"])
def test_forked_child_before_it_runs_the_worker(python, tmp_path, error):
    """It must not continue in the constructor of the pool, and write to the shared memory."""
    (tmp_path / "program.py").write_text(CHILD)
    assert python("program.py", error) == "[40, 41, 42]\n"


END = """
import multiprocessing, os, queue, signal, sys, threading, time
import multiprocessing_initret

def wait_until(condition):
    deadline = time.monotonic() + 50
    while not condition():
        if time.monotonic() > deadline:
            os._exit(3)
        time.sleep(0.001)

def touch(path):
    open(path, "w").close()

def exit_slowly(*args):
    touch("is terminated")
    wait_until(lambda: os.path.exists("may exit"))
    os._exit(0)

def handle_sigterm(value):
    signal.signal(signal.SIGTERM, exit_slowly)
    return value

def block(initret):
    touch("is running")
    wait_until(lambda: False)

interrupts = []

def raise_once(*args):
    if not interrupts:
        interrupts.append("SIGINT")
        raise KeyboardInterrupt

def interrupt(condition):
    wait_until(condition)
    # A signal that arrives just before a system call blocks does not interrupt it, but the next
    # one does.  Before Python 3.9.8, a join() that is interrupted when it returns would block
    # every later one (bpo-45274), and with it terminate().
    while not interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

def is_in(name):
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None

def is_terminated():
    return os.path.exists("is terminated")

def await_result():
    try:
        result.get()
    except BaseException as error:
        errors.put(error)

def end(how):
    if how == "terminate":
        pool.terminate()
    elif how == "with":
        with pool:
            pass
    else:
        with pool:
            pool.close()
            pool.join()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, raise_once)
    how = sys.argv[2]
    context = multiprocessing.get_context(sys.argv[1])
    pool = multiprocessing_initret.Pool(
        2, handle_sigterm, (40,), context=context, expect_initret=True
    )
    threads = pool._worker_handler, pool._task_handler, pool._result_handler
    result, errors = pool.apply_async(block), queue.Queue()
    wait_until(lambda: os.path.exists("is running"))
    threading.Thread(target=await_result, daemon=True).start()
    if how == "join":
        touch("may exit")
        condition = lambda: is_in("join")
    else:
        condition = is_terminated
    threading.Thread(target=interrupt, args=(condition,), daemon=True).start()
    try:
        end(how)
    except KeyboardInterrupt:
        print("interrupted")
    print(type(errors.get(timeout=30)).__name__)
    touch("may exit")
    pool.terminate()
    pool.join()
    print(multiprocessing.active_children(), any(thread.is_alive() for thread in threads))
"""


@pytest.mark.parametrize("how", ["terminate", "with", "join"])
def test_while_the_pool_ends(python, tmp_path, start_method, how):
    """Pending results fail all the same, and a second terminate() completes the shutdown."""
    (tmp_path / "program.py").write_text(END)
    output = python("program.py", start_method, how)
    assert output.splitlines() == ["interrupted", "WorkerLostError", "[] False"]
