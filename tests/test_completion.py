"""Completion by the tab key in a real bash.

The kind of fault: at some place of a line, the program does not offer what can be typed there: keys, groups, their
options, values, files, commands and flags, for `nst-exp` and for `python -m nst_exp.run`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import run_in_process

# the completions of a line that ends at the cursor; bash expects the part after its last word break
CASES = {
    "nst-exp style_l": ["style_layer_weight.", "style_layer_weights=", "style_layers=", "style_loss.", "style_loss="],
    "nst-exp com": ["compare"],
    "nst-exp stop.": ["stop.improvement=", "stop.window="],
    "nst-exp --mul": ["--multirun"],
    "nst-exp -m solver=adam init=c": ["content", "colours"],
    "nst-exp solver=": ["adam", "lbfgs", "optax_lbfgs"],
    "nst-exp -m colour=painting,ma": ["painting,matched"],
    "nst-exp colour=matched colour.match=": ["histogram", "moments"],
    "nst-exp force=t": ["true"],
    "nst-exp content=my\\ p": ["my\\ photo\\ \\(1\\).png"],
    "nst-exp style=pai": ["paintings/"],
    "nst-exp -m style=paintings/a.png,paintings/": ["paintings/a.png,paintings/a.png"],
    "nst-exp hydra.launcher.max": ["hydra.launcher.max_batch_size="],
    "python -m nst_exp.run -m solver=op": ["optax_lbfgs"],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "paintings").mkdir()
    for name in ("my photo (1).png", "paintings/a.png"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("line", CASES)
def test_what_a_line_can_become(line: str, folder: Path) -> None:
    environment = {"COMP_LINE": line, "COMP_WORDBREAKS": " \"'><=;|&(:"}
    outcome = run_in_process("-sc", "query=bash", folder=folder, environment=environment, defaults={})
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines() == sorted(CASES[line])


def test_a_real_bash_completes(folder: Path) -> None:
    """The tab key is pressed after each command line in an interactive bash, whose readline inserts the answer."""
    bash = shutil.which("bash")
    assert bash is not None
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "dumb",
        "PS1": "> ",
    }
    # a key that is bound to a shell command shows the line, which readline then prints
    lines = [
        'eval "$(python -m nst_exp.run -sc install=bash)"',
        'bind -x \'"\\C-o": printf "LINE<%s>\\n" "$READLINE_LINE"; READLINE_LINE=\'',
        *(
            f"{line}\t\x0f"
            for line in ("nst-exp style_z", "nst-exp solver=opt", "python -m nst_exp.run content=my\\ p")
        ),
        "exit",
    ]
    done = subprocess.run(
        [sys.executable, "-c", _TERMINAL, bash, "--norc", "--noprofile", "-i"],
        input="\n".join(lines), cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    for completed in (
        "nst-exp style_zoom=",
        "nst-exp solver=optax_lbfgs",
        "python -m nst_exp.run content=my\\ photo\\ \\(1\\).png",
    ):
        assert f"LINE<{completed}>" in done.stdout, done.stdout


# runs a program in a terminal of its own; types each line after the line before has been answered
_TERMINAL = r"""
import os, pty, re, select, sys, time
typed = [line.encode() for line in sys.stdin.read().split("\n")]
process, terminal = pty.fork()
if process == 0:
    os.execv(sys.argv[1], sys.argv[1:])
end = time.monotonic() + 90

def until(pattern):
    seen = b""
    while not re.search(pattern, seen) and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                new = os.read(terminal, 65536)
            except OSError:
                return
            os.write(1, new)
            seen += new

until(b"> ")
for line in typed:
    if line.endswith(b"\x0f"):
        os.write(terminal, line)
        until(rb"LINE<[^>]*>\s+> ")
    else:
        os.write(terminal, line + b"\r")
        until(rb"\n> " if line != b"exit" else b"exit")
"""
