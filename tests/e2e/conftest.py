"""Fixtures: shared daemons for tests that leave them as they were, and a factory for tests that need one of their own.

A failed test shows what the daemons it used wrote while it ran.
"""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from daemon import GEMMA, QWEN, SMOLLM2, TOY, Daemon  # noqa: E402


def shared(model, *options):
    @pytest.fixture(scope="session")
    def fixture():
        with Daemon(*options, model=model) as d:
            yield d

    return fixture


# One per model; the smaller pools leave memory for the others.
smollm2 = shared(SMOLLM2, "--kv-tokens", "32768", "--max-seqs", "64", "--queue", "128")
qwen = shared(QWEN, "--kv-tokens", "16384")
gemma = shared(GEMMA, "--kv-tokens", "16384")
toy = shared(TOY)


@pytest.fixture
def start():
    """start(options..., model=...) makes a daemon of the test's own; what the test left running is stopped and must end with status 0."""
    running = []

    def make(*options, **more):
        running.append(Daemon(*options, **more))
        return running[-1]

    make.daemons = running
    yield make
    statuses = []
    for d in running:
        ended = d.process.poll() is not None
        try:
            status = d.stop()
        except Exception:
            d.kill()
            status = "killed, because it did not stop"
        if not ended:
            statuses.append(status)
    assert all(s == 0 for s in statuses), f"exit statuses {statuses}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item):
    yield
    item.log_marks = {id(d): len(d.log()) for d in item.funcargs.values() if isinstance(d, Daemon)}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    marks = getattr(item, "log_marks", {})
    daemons = [d for d in item.funcargs.values() if isinstance(d, Daemon)]
    daemons += getattr(item.funcargs.get("start"), "daemons", [])
    for d in daemons:
        report.sections.append(("nextd log", d.log()[marks.get(id(d), 0):][-20000:]))
