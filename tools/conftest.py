import pytest
from git_environment import LOCATORS


@pytest.fixture(autouse=True)
def no_other_repository(monkeypatch):
    """A hook of git runs the tests with its own repository in the environment."""
    for name in LOCATORS:
        monkeypatch.delenv(name, raising=False)
