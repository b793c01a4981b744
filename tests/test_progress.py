"""The output that a person reads while a command works and when it ends.

The kinds of fault: work without any sign of progress; an end that does not tell what was done, how good it is and how
to resume; log lines that are longer than needed, or coloured although nobody asked for colours.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from command import OUT, arguments_of, run_in_process

from nst_exp.console import ConsoleHandler
from nst_exp.runs.progress import SweepProgress, duration

CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
ENDLESS = 1_000_000


def test_a_sweep_on_a_terminal_and_ctrl_c(tmp_path: Path) -> None:
    """In a terminal of 80 columns, the first point ends at once and the others would never end."""
    steps = f"steps=2,{ENDLESS},{ENDLESS + 1},{ENDLESS + 2}"
    command = [sys.executable, "-m", "nst_exp.run", *arguments_of("-m", steps)]
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=end, stdout=end, stderr=end)
    os.close(end)
    shown, interrupted, deadline = "", False, time.monotonic() + 90
    while True:
        try:
            shown += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # the command has closed the terminal
            break
        assert time.monotonic() < deadline, shown
        if f"/{ENDLESS}," in shown and not interrupted:
            interrupted = True
            process.send_signal(signal.SIGINT)
    os.close(terminal)
    assert process.wait() == 130
    text = CODES.sub("", shown).replace("\r", "\n")
    for sign in ("0 of 4", "compiling", "measuring", "1 of 4, ", " left", f"/{ENDLESS}, loss"):
        assert sign in text
    bars = [line for line in text.splitlines() if "sweep " in line or "solving " in line]
    assert max(map(len, bars)) <= 80
    assert "\n1 of 4 points done" in text
    assert "The same command resumes the sweep" in text
    assert "[INFO]" not in text


def test_a_run_ends_with_its_measures_and_its_log_has_the_long_lines(tmp_path: Path) -> None:
    done = run_in_process(folder=tmp_path)
    lines = done.stdout.splitlines()
    assert "measuring ..." in lines
    assert re.fullmatch(r"score \d\.\d{3} \(lower is better\), LPIPS \d\.\d{3}, style \d\.\d{3}", lines[-2])
    assert lines[-1] == f"picture: {tmp_path / OUT / 'pastiche.png'}"
    assert "\x1b" not in done.stdout
    log = (tmp_path / OUT / "run.log").read_text()
    assert re.search(r"^\[[-0-9 :,]+\]\[nst_exp\.[\w.]+\]\[INFO\] - score ", log, re.MULTILINE)


@pytest.mark.parametrize(
    ("environment", "colour"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colours_of_severity(
    environment: dict[str, str], colour: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = "/a/very/long/path" * 20 + "/[bold]é.png"
    for level in (logging.INFO, logging.WARNING):
        ConsoleHandler().handle(logging.LogRecord("nst_exp", level, "", 0, "look at %s", (path,), None))
    written = capsys.readouterr().out
    assert ("\x1b[33mwarning:" in written) == colour
    assert CODES.sub("", written) == f"look at {path}\nwarning: look at {path}\n"


def test_time_left_counts_the_points_that_were_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    sweep = SweepProgress(9, done=1)
    sweep.advance(solved=False)
    assert sweep.state() == "2 of 9"
    now[0] = 60
    sweep.advance(solved=True)
    assert sweep.state() == "3 of 9, 6 min left"
    now[0] = 90
    assert sweep.state(solving=0.5) == "3 of 9, 6 min left"
    assert [duration(seconds) for seconds in (40, 200, 9000)] == ["40 s", "3 min", "2.5 h"]
