"""Make a CPython checkout the branch for the pull request.

    python tools/upstream.py CHECKOUT [--branch NAME]
    python tools/upstream.py CHECKOUT --check

What this project tracks under Doc/, Lib/ and Misc/ becomes one commit on a new
branch: the patches applied, the other files as they are.  --check only says
whether that would work.  The commit is made beside the work tree, so a checkout
that is refused is left as it was.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from git_environment import without_locators

HERE = pathlib.Path(__file__).resolve().parent.parent
UNFINISHED = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply")
MESSAGE = """\
gh-79018: Add expect_initret to multiprocessing.Pool

With it, what the initializer returned in a worker reaches every function that
worker runs, as the keyword argument initret.  An exception that the initializer
raises is the outcome of the tasks that needed its value, instead of an endless
series of new workers.
"""


class Checkout:
    """A CPython checkout, and git in it."""

    def __init__(self, folder):
        self.folder = folder
        self.env = without_locators()

    def run(self, *args):
        return subprocess.run(
            ["git", "-C", str(self.folder), *args],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )

    def git(self, *args):
        """Return what git prints, or exit with what it complains of."""
        done = self.run(*args)
        if done.returncode:
            raise SystemExit(f"{self.folder}: git {args[0]} failed:\n{done.stderr.strip()}")
        return done.stdout.strip()

    def refuse_unless_ready(self, branch):
        if not (self.folder / ".git").exists():
            raise SystemExit(f"{self.folder} is not the top of a git checkout")
        self.git("rev-parse", "HEAD")
        if self.run("cat-file", "-e", "HEAD:Lib/multiprocessing/pool.py").returncode:
            raise SystemExit(f"{self.folder} is no CPython: it has no Lib/multiprocessing/pool.py")
        changes = self.git("status", "--porcelain")
        if changes:
            raise SystemExit(f"{self.folder} has changes of its own:\n{changes}")
        for name in UNFINISHED:
            if (self.folder / self.git("rev-parse", "--git-path", name)).exists():
                raise SystemExit(f"{self.folder} is amid something else: {name}")
        self.git("check-ref-format", "--branch", branch)

    def use_index(self, path):
        """Work on an index beside the checkout's own, which stays as it is."""
        self.env["GIT_INDEX_FILE"] = path
        self.git("read-tree", "HEAD")

    def has(self, patches, files):
        """Tell whether HEAD has every hunk and every file."""
        undone = self.run("apply", "--cached", "--check", "--reverse", *patches)
        return undone.returncode == 0 and all(
            self.run("rev-parse", f"HEAD:{name}").stdout.strip() == self.git("hash-object", path)
            for name, path in files.items()
        )

    def stage(self, patches, files):
        """Put everything into the index, or exit with each file and hunk that does not fit."""
        complaints = [
            f"{name}: there is another file of this name"
            for name in files
            if not self.run("cat-file", "-e", f"HEAD:{name}").returncode
        ]
        for patch in patches:
            applied = self.run("apply", "--cached", "--whitespace=nowarn", patch)
            if applied.returncode:
                complaints.append(name_hunk(patch, applied.stderr))
        if complaints:
            raise SystemExit(f"{self.folder} does not take the change:\n" + "\n".join(complaints))
        for name, path in files.items():
            blob = self.git("hash-object", "-w", path)
            self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")

    def commit(self, branch):
        """Commit the index as a new branch, and change to it."""
        commit = self.git("commit-tree", self.git("write-tree"), "-p", "HEAD", "-m", MESSAGE)
        del self.env["GIT_INDEX_FILE"]
        self.git("branch", branch, commit)
        changed = self.run("checkout", "-q", "--no-overwrite-ignore", branch)
        left = self.git("status", "--porcelain")
        if changed.returncode or left:
            raise SystemExit(
                f"the commit is on {branch}, but git could not change to it:\n"
                f"{changed.stderr}{left}"
            )


def name_hunk(patch, stderr):
    """Return git's complaint, with the hunk that it means by a line number."""
    failed = re.search(r"patch failed: (.*):(\d+)", stderr)
    if not failed:
        return stderr.strip()
    name, line = failed.groups()
    hunk = re.search(rf"^@@ -{line}\b.*$", pathlib.Path(patch).read_text("utf-8"), re.MULTILINE)
    return f"{name}: this hunk does not apply: {hunk.group()}"


def landing():
    """Return the patches, and the other files by their names in CPython."""
    tracked = Checkout(HERE).git("ls-files", "Doc", "Lib", "Misc").splitlines()
    files = {name: str(HERE / name) for name in tracked}
    patches = [files.pop(name) for name in list(files) if name.endswith(".patch")]
    return patches, files


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", metavar="CHECKOUT", type=pathlib.Path)
    parser.add_argument(
        "--branch", metavar="NAME", default="gh-79018-expect-initret", help="default: %(default)s"
    )
    parser.add_argument("--check", action="store_true", help="change nothing, only try")
    options = parser.parse_args()
    if not shutil.which("git"):
        raise SystemExit("git is needed, and it is not on PATH")
    patches, files = landing()
    with tempfile.TemporaryDirectory() as scratch:
        checkout = Checkout(options.checkout.resolve())
        checkout.refuse_unless_ready(options.branch)
        checkout.use_index(os.path.join(scratch, "index"))
        if checkout.has(patches, files):
            return print("It is done already: HEAD has every hunk and every file.")
        if checkout.run("rev-parse", "--verify", f"refs/heads/{options.branch}").stdout:
            raise SystemExit(f"{options.checkout} has a branch {options.branch} already")
        checkout.stage(patches, files)
        if options.check:
            return print(f"{len(patches)} patches apply, {len(files)} files are new.")
        checkout.commit(options.branch)
    print(
        f"Branch {options.branch} is one commit ahead. Next, in {options.checkout}:\n"
        "    ./python -m test -j0 test_multiprocessing_{fork,spawn,forkserver}\n"
        "    make -C Doc check"
    )


if __name__ == "__main__":
    main()
