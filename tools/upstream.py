"""Make the branch for the pull request in a CPython checkout.

    python tools/upstream.py CHECKOUT [--branch NAME]
    python tools/upstream.py CHECKOUT --check

One commit on a new branch changes the files of Doc/, Lib/ and Misc/: the patches of this project
are applied, the test class is inserted, and the NEWS entry is added.  --check only reports whether
that would succeed.  The commit is made with a separate index, so a checkout that is refused is not
changed.  What's New credits the author that git is configured with.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from git_environment import without_locators

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
UNFINISHED = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply")
TESTS = "Lib/test/_test_multiprocessing.py"
TEST_CLASS = REPOSITORY / "Lib" / "test" / "test_pool_initret.py"
AFTER_TEST_CLASS = "def raising():\n"
AUTHOR = "AUTHOR"  # in the patch of What's New
MESSAGE = """\
gh-79018: Add expect_initret to multiprocessing.Pool

When it is true, the return value of the initializer is passed to every task
in that worker as the keyword argument initret.  If the initializer raises an
exception, the worker no longer exits: it calls the initializer again for the
next task, which fails if that call fails too.

Based on a patch by Sean Harrington.
"""


class Checkout:
    """A CPython checkout, and the git commands that run in it."""

    def __init__(self, directory):
        self.directory = directory
        self.env = without_locators()

    def run(self, *args, stdin=None):
        return subprocess.run(
            ["git", "-C", str(self.directory), *args],
            env=self.env,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def git(self, *args, stdin=None):
        """Return the output of a git command, or exit with its error message."""
        done = self.run(*args, stdin=stdin)
        if done.returncode:
            raise SystemExit(f"{self.directory}: git {args[0]} failed:\n{done.stderr.strip()}")
        return done.stdout.strip()

    def refuse_unless_ready(self, branch):
        if not (self.directory / ".git").exists():
            raise SystemExit(f"{self.directory} is not the top of a git checkout")
        self.git("rev-parse", "HEAD")
        if self.run("cat-file", "-e", "HEAD:Lib/multiprocessing/pool.py").returncode:
            raise SystemExit(
                f"{self.directory} is not CPython: it has no Lib/multiprocessing/pool.py"
            )
        changes = self.git("status", "--porcelain")
        if changes:
            raise SystemExit(f"{self.directory} has uncommitted changes:\n{changes}")
        for name in UNFINISHED:
            if (self.directory / self.git("rev-parse", "--git-path", name)).exists():
                raise SystemExit(f"{self.directory} is in the middle of another operation: {name}")
        self.git("check-ref-format", "--branch", branch)

    def use_index(self, path):
        """Use a separate index, so that the checkout's own is not changed."""
        self.env["GIT_INDEX_FILE"] = path
        self.git("read-tree", "HEAD")

    def has(self, change):
        """Return whether HEAD has every hunk, every file and the test class."""
        undone = self.run("apply", "--cached", "--check", "--reverse", *change.patches)
        return (
            undone.returncode == 0
            and change.test_class in self.run("cat-file", "blob", f"HEAD:{TESTS}").stdout
            and all(
                self.run("rev-parse", f"HEAD:{name}").stdout.strip()
                == self.git("hash-object", path)
                for name, path in change.files.items()
            )
        )

    def stage(self, change):
        """Put the change into the index, or exit naming each file and hunk that does not apply."""
        errors = [
            f"{name}: a file with this name exists already"
            for name in change.files
            if not self.run("cat-file", "-e", f"HEAD:{name}").returncode
        ]
        for patch in change.patches:
            applied = self.run("apply", "--cached", "--whitespace=nowarn", patch)
            if applied.returncode:
                errors.append(name_hunk(patch, applied.stderr))
        tests = self.run("cat-file", "blob", f"HEAD:{TESTS}").stdout
        if tests.count("\n" + AFTER_TEST_CLASS) != 1:
            errors.append(f"{TESTS}: it must have one line {AFTER_TEST_CLASS.strip()!r}")
        if errors:
            raise SystemExit(f"{self.directory}: the change does not apply:\n" + "\n".join(errors))
        tests = tests.replace("\n" + AFTER_TEST_CLASS, "\n" + change.test_class + AFTER_TEST_CLASS)
        blobs = {TESTS: self.git("hash-object", "-w", "--stdin", stdin=tests)}
        for name, path in change.files.items():
            blobs[name] = self.git("hash-object", "-w", path)
        for name, blob in blobs.items():
            self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")

    def commit(self, branch):
        """Commit the index to a new branch, and check the branch out."""
        commit = self.git("commit-tree", self.git("write-tree"), "-p", "HEAD", "-m", MESSAGE)
        del self.env["GIT_INDEX_FILE"]
        self.git("branch", branch, commit)
        changed = self.run("checkout", "-q", "--no-overwrite-ignore", branch)
        left = self.git("status", "--porcelain")
        if changed.returncode or left:
            raise SystemExit(
                f"the commit is on {branch}, but git could not check it out:\n"
                f"{changed.stderr}{left}"
            )


def name_hunk(patch, stderr):
    """Return the error message of git, with the hunk instead of its line number."""
    failed = re.search(r"patch failed: (.*):(\d+)", stderr)
    if not failed:
        return stderr.strip()
    name, line = failed.groups()
    hunk = re.search(rf"^@@ -{line}\b.*$", pathlib.Path(patch).read_text("utf-8"), re.MULTILINE)
    return f"{name}: this hunk does not apply: {hunk.group()}"


class Change:
    """What is committed: the patches, the new files (CPython's name: path), and the test class."""

    def __init__(self, author, scratch):
        tracked = Checkout(REPOSITORY).git("ls-files", "Doc", "Lib", "Misc").splitlines()
        self.patches, self.files = [], {}
        for name in tracked:
            path = REPOSITORY / name
            if path == TEST_CLASS:
                continue
            if not name.endswith(".patch"):
                self.files[name] = str(path)
                continue
            text = path.read_text(encoding="utf-8")
            copy = pathlib.Path(scratch, name.replace("/", "+"))
            copy.write_bytes(text.replace(AUTHOR, author).encode("utf-8"))
            self.patches.append(str(copy))
        self.test_class = read_test_class()


def read_test_class():
    text = TEST_CLASS.read_text(encoding="utf-8")
    return text.partition("# Inserted:\n")[2].partition("# Not inserted:\n")[0]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", metavar="CHECKOUT", type=pathlib.Path)
    parser.add_argument(
        "--branch", metavar="NAME", default="gh-79018-expect-initret", help="default: %(default)s"
    )
    parser.add_argument("--check", action="store_true", help="only report whether it would succeed")
    options = parser.parse_args()
    if not shutil.which("git"):
        raise SystemExit("git must be on PATH")
    with tempfile.TemporaryDirectory() as scratch:
        checkout = Checkout(options.checkout.resolve())
        checkout.refuse_unless_ready(options.branch)
        identity = checkout.git("var", "GIT_AUTHOR_IDENT")
        change = Change(identity.partition(" <")[0], scratch)
        checkout.use_index(os.path.join(scratch, "index"))
        if checkout.has(change):
            return print("Nothing to do: HEAD has every hunk, every file and the tests.")
        if checkout.run("rev-parse", "--verify", f"refs/heads/{options.branch}").stdout:
            raise SystemExit(f"{options.checkout} has a branch {options.branch} already")
        checkout.stage(change)
        if options.check:
            return print(f"{len(change.patches)} patches and the tests apply.")
        checkout.commit(options.branch)
    print(
        f"Branch {options.branch} is one commit ahead. Next, in {options.checkout}:\n"
        "    ./python -m test -j0 test_multiprocessing_{fork,spawn,forkserver}\n"
        "    ./python -m test -R 3:3 -m '*PoolInitret*' "
        "test_multiprocessing_{fork,spawn,forkserver}\n"
        "    make -C Doc check"
    )


if __name__ == "__main__":
    main()
