"""Messages go to stderr, as many of them as the options ask for."""

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.messages import show_messages, verbosity_options
from benchmark.progress import tracked


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "benchmark", "methods")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def said(verbosity: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    show_messages()
    show_messages(verbosity)
    for name in ("benchmark.steps", "methods.mine", "mmengine"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(level, "100 %% of %s", name)
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.splitlines()


def test_more_or_less_is_shown_as_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    ours = [
        [f"100 % of {name}", f"warning: 100 % of {name}", f"error: 100 % of {name}"]
        for name in ("benchmark.steps", "methods.mine")
    ]
    others = ["warning: 100 % of mmengine", "error: 100 % of mmengine"]
    assert said(0, capsys) == [*ours[0], *ours[1], *others]
    assert verbosity_options() == []
    assert said(-1, capsys) == [*ours[0][1:], *ours[1][1:], *others]
    assert verbosity_options() == ["--quiet"]
    details = said(1, capsys)
    assert {"benchmark.steps: 100 % of benchmark.steps", "100 % of mmengine"} < set(details)
    assert verbosity_options() == ["--verbose"]


@pytest.mark.parametrize("words", [["-q", "list", "datasets"], ["list", "datasets", "--quiet"]])
def test_quiet_is_taken_in_front_of_the_command_and_behind_it(words: list[str]) -> None:
    assert CliRunner().invoke(app, words).exit_code == 0
    assert verbosity_options() == ["--quiet"]


def test_progress_is_a_line_now_and_then_with_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr("benchmark.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    show_messages()
    assert list(tracked(range(200), "images", each=10)) == list(range(200))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "20 of 2,000 images, 1.7/s, 20 min left"
    assert len(lines) == 100
    show_messages(-1)
    assert list(tracked(range(200), "images")) == list(range(200))
    assert list(tracked(range(3), "images", shown=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
