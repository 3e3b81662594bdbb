"""Tests that tools/upstream.py makes one commit in a CPython checkout, or leaves it unchanged."""

import pathlib
import re
import subprocess
import sys

import pytest
import stand_in
import upstream as upstream_module

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
DOC = "Doc/library/multiprocessing.rst"
POOL = "Lib/multiprocessing/pool.py"
NEWS = "Misc/NEWS.d/next/Library/2026-11-22-15-30-00.gh-issue-79018.kT3vQz.rst"
WHATS_NEW = "Doc/whatsnew/3.16.rst"


def run(*command, cwd):
    return subprocess.run(
        [str(word) for word in command],
        cwd=str(cwd),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )


def upstream(*args):
    done = run(sys.executable, REPOSITORY / "tools" / "upstream.py", *args, cwd=REPOSITORY)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path):
    stand_in.make(tmp_path / "cpython", "multiprocessing")
    return tmp_path / "cpython"


def state(checkout):
    """Return everything about a checkout that a refusal must not change."""
    return [
        run("git", *command, cwd=checkout).stdout
        for command in (
            ["for-each-ref"],
            ["symbolic-ref", "HEAD"],
            ["status", "--porcelain"],
            ["diff", "HEAD"],
            ["diff", "--cached"],
        )
    ]


def refused(checkout, *args):
    before = state(checkout)
    code, message = upstream(checkout, *args)
    assert code == 1 and state(checkout) == before
    return message


@pytest.fixture
def checkout_of_main(tmp_path):
    if not stand_in.MAIN:
        pytest.skip("CPYTHON names no checkout of CPython's main branch")
    stand_in.make_main(tmp_path / "main")
    return tmp_path / "main"


def test_main(checkout_of_main):
    code, message = upstream(checkout_of_main, "--check")
    assert code == 0, message
    code, message = upstream(checkout_of_main)
    assert code == 0, message
    diff = run("git", "diff", "main", "--", upstream_module.TESTS, cwd=checkout_of_main).stdout
    added = [line[1:] for line in diff.splitlines()[4:] if line.startswith("+")]
    assert "\n".join(added) + "\n" == upstream_module.read_test_class()
    assert len(added) <= 150
    assert not [line for line in diff.splitlines()[4:] if line.startswith("-")]
    assert (checkout_of_main / POOL).read_text("utf-8").count("_ExpectInitret") == 3
    news = (checkout_of_main / WHATS_NEW).read_text(encoding="utf-8")
    assert "(Contributed by A. Developer, based on a patch by Sean Harrington," in news


def test_few_hunks():
    patch = (REPOSITORY / f"{POOL}.patch").read_text(encoding="utf-8")
    assert len(re.findall("^@@", patch, re.MULTILINE)) <= 9


def test_one_commit(checkout):
    before = state(checkout)
    code, message = upstream(checkout, "--check")
    assert code == 0 and "tests apply" in message
    assert state(checkout) == before

    code, message = upstream(checkout)
    assert code == 0 and "./python -m test -j0 test_multiprocessing_{fork" in message
    _, head, status, _, _ = state(checkout)
    assert head == "refs/heads/gh-79018-expect-initret\n" and status == ""
    log = run("git", "log", "--format=%s", cwd=checkout).stdout.splitlines()
    assert log == ["gh-79018: Add expect_initret to multiprocessing.Pool", "CPython"]

    changed = run("git", "diff", "--name-only", "main", cwd=checkout).stdout.split()
    landing = run("git", "ls-files", "Doc", "Lib", "Misc", cwd=REPOSITORY).stdout.split()
    landing.remove("Lib/test/test_pool_initret.py")
    names = [name.replace(".patch", "") for name in landing]
    assert sorted(changed) == sorted([*names, upstream_module.TESTS])
    for name in landing:
        if not name.endswith(".patch"):
            assert (checkout / name).read_bytes() == (REPOSITORY / name).read_bytes()
    assert "expect_initret" in (checkout / POOL).read_text(encoding="utf-8")
    assert (checkout / DOC).read_text(encoding="utf-8").count("versionchanged:: next") == 2

    before = state(checkout)
    code, message = upstream(checkout)
    assert code == 0 and "Nothing to do" in message
    assert state(checkout) == before


def test_branch(checkout):
    assert upstream(checkout, "--branch", "initret")[0] == 0
    assert state(checkout)[1] == "refs/heads/initret\n"


def test_branch_exists(checkout):
    run("git", "branch", "initret", cwd=checkout)
    assert "initret" in refused(checkout, "--branch", "initret")


def test_branch_cannot_be_made(checkout):
    run("git", "branch", "initret", cwd=checkout)
    assert "initret/2" in refused(checkout, "--branch", "initret/2")
    assert "no..name" in refused(checkout, "--check", "--branch", "no..name")


def test_file_exists(checkout):
    name = NEWS
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("# other\n")
    run("git", "add", ".", cwd=checkout)
    run("git", "commit", "-q", "-m", "Other", cwd=checkout)
    assert f"{name}: a file with this name exists" in refused(checkout, "--check")


def test_ignored_file_exists(checkout):
    name = NEWS
    (checkout / ".git" / "info" / "exclude").write_text("Misc/NEWS.d\n")
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("# mine\n")
    code, message = upstream(checkout)
    assert code == 1 and name in message
    assert (checkout / name).read_text() == "# mine\n"


def test_unfinished_merge(checkout):
    head = run("git", "rev-parse", "HEAD", cwd=checkout).stdout
    (checkout / ".git" / "MERGE_HEAD").write_text(head)
    assert "MERGE_HEAD" in refused(checkout)


def test_in_a_hook(checkout, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(REPOSITORY / ".git"))
    before = run("git", "rev-parse", "HEAD", cwd=REPOSITORY).stdout
    assert upstream(checkout)[0] == 0
    assert run("git", "rev-parse", "HEAD", cwd=REPOSITORY).stdout == before


@pytest.mark.parametrize("change", ["edited", "staged", "untracked"])
def test_uncommitted_changes(checkout, change):
    if change == "untracked":
        (checkout / "notes").write_text("")
    else:
        (checkout / POOL).write_text("# empty\n")
    if change == "staged":
        run("git", "add", POOL, cwd=checkout)
        run("git", "restore", "--source=HEAD", "--worktree", POOL, cwd=checkout)
    assert ("notes" if change == "untracked" else POOL) in refused(checkout)


def test_not_cpython(checkout, tmp_path):
    run("git", "rm", "-q", POOL, cwd=checkout)
    run("git", "commit", "-q", "-m", "Remove pool.py", cwd=checkout)
    assert "is not CPython" in refused(checkout)
    assert "not the top of a git checkout" in upstream(tmp_path)[1]
    assert "not the top of a git checkout" in upstream(tmp_path / "missing")[1]


def test_a_hunk_that_does_not_apply(checkout):
    text = (checkout / POOL).read_text(encoding="utf-8")
    (checkout / POOL).write_text(text.replace("def mapstar(", "def map_star("), encoding="utf-8")
    (checkout / DOC).unlink()
    (checkout / upstream_module.TESTS).write_text("")
    run("git", "commit", "-q", "-a", "-m", "Something has changed", cwd=checkout)
    for args in [], ["--check"]:
        message = refused(checkout, *args)
        assert re.search(rf"{POOL}: this hunk does not apply: @@ -\d+", message)
        assert DOC in message and "def raising():" in message


def test_no_identity(checkout):
    run("git", "config", "user.name", "", cwd=checkout)
    assert "git var failed" in refused(checkout)
