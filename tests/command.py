"""The real command `python -m nst_exp.run`, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import jax
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning
from hydra.core.global_hydra import GlobalHydra
from jax.experimental.compilation_cache import compilation_cache

with warnings.catch_warnings():  # what is imported here need not be imported under pytest's filters later
    warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)  # OmegaConf's DictConfig
    warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
    import nst_exp.commands.run
    import nst_exp.runs.run
    from nst_exp.signals import ENDING

OUT = "out"  # where runs and sweeps write to, below the folder that the command is started in
DEFAULTS = {
    "network": "tiny",
    "params": "random",
    "evaluator": "tiny",
    "size": "32",
    "steps": "2",
    "tracking": "none",
    "cache_dir": os.environ["NST_EXP_CACHE"],  # conftest's
    "hydra.run.dir": OUT,
    "hydra.sweep.dir": OUT,
}
# Two shallow layers are traced and compiled in a third less time than all; used where no layers are asked for.
_LAYERS = {"content_layer": "block2_conv1", "style_layers": "[block1_conv1,block2_conv1]"}
_OWN_LAYERS = (
    "network",
    "experiment",
    "params",
    "content_layer",
    "style_layer",
)  # keys that come with layers of their own


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str


def arguments_of(*arguments: str, defaults: Mapping[str, str] = DEFAULTS) -> list[str]:
    """`arguments`, and `defaults` for what they leave open; flags may stand anywhere."""
    given = {argument.partition("=")[0] for argument in arguments}
    if defaults is DEFAULTS and not any(key.startswith(_OWN_LAYERS) for key in given):
        defaults = DEFAULTS | _LAYERS
    return [*arguments, *(f"{key}={value}" for key, value in defaults.items() if key not in given)]


def run_in_process(
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] = DEFAULTS,
) -> Outcome:
    """`main()` with these arguments, started in `folder`; an exception that gets out of it is not caught."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with process_state(), contextlib.chdir(folder), mock.patch.dict(os.environ, environment or {}):
        with (
            mock.patch.object(sys, "argv", ["nst_exp", *arguments_of(*arguments, defaults=defaults)]),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            try:
                nst_exp.commands.run.main()
            except SystemExit as end:
                code = end.code
        if isinstance(code, str):  # Python prints it and exits with 1
            print(code, file=stderr)
            code = 1
    return Outcome(code or 0, stdout.getvalue(), stderr.getvalue())


def run_process(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, timeout: float = 120
) -> Outcome:
    """The command as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "nst_exp.run", *arguments_of(*arguments)],
        cwd=folder,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def process_state() -> Iterator[None]:
    """Puts back what a command leaves behind in its process: log handlers, signals, environment, singletons."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    handlers_before = {number: signal.getsignal(number) for number in ENDING}
    jax_cache = jax.config.values["jax_compilation_cache_dir"]
    GlobalHydra.instance().clear()
    try:
        with (
            mock.patch.dict(os.environ),
            # Hydra's log configuration closes all handlers there are, and absl's with it what pytest captures
            mock.patch.object(logging, "_handlerList", []),
            mock.patch.object(logging, "_handlers", weakref.WeakValueDictionary()),
        ):
            os.environ.pop("HYDRA_FULL_ERROR", None)
            yield
    finally:
        GlobalHydra.instance().clear()
        for number, of_signal in handlers_before.items():
            signal.signal(number, of_signal)
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        jax.config.update("jax_compilation_cache_dir", jax_cache)
        compilation_cache.reset_cache()
