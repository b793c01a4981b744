"""Odd machines and ends: whatever is missing or goes away, a run ends well or in one line, and loses nothing."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import git
import pytest
from command import OUT, arguments_of, run_in_process, run_process
from mlflow import MlflowClient
from PIL import Image

import nst_exp
from nst_exp import devices, memory, signals, versions
from nst_exp.errors import InputError, OutOfMemoryError
from nst_exp.files import home_expanded
from nst_exp.networks import get_network
from nst_exp.params.sources import ParamsSource, params_sha256
from nst_exp.records import record
from nst_exp.records.folder import RunFolder
from nst_exp.runs import camera
from nst_exp.versions import installed_version

VGG = get_network("vgg16", pooling="average", padding="zeros", precision="float32")
SQLITE = ("tracking=sqlite", "tracking.store=store")


def wait_for(condition: Callable[[], bool], timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def statuses(folder: Path) -> list[str]:
    client = MlflowClient(f"sqlite:///{folder / 'store' / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "nst_exp"]
    return sorted(run.info.status for run in client.search_runs([experiment.experiment_id]))


# --- what a run would like to know of its machine, and need not --------------------------------------------------


def test_a_run_needs_no_git_no_home_and_no_user_name(tmp_path: Path) -> None:
    """Kind: what is looked up for information only (commit, user, home, package versions) may be missing."""
    environment = {"PATH": str(tmp_path), "HOME": "", "USER": "", "LOGNAME": ""}
    done = run_process(*SQLITE, folder=tmp_path, environment=environment)
    assert (done.code, done.stderr) == (0, "")
    assert "Git" not in done.stdout
    assert (tmp_path / OUT / "result.json").is_file()


def test_a_home_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Kind: caches of ours, of JAX and of Matplotlib cannot be made; everything works without a word, only slower."""
    (tmp_path / "file").touch()  # root may write to folders of any mode, but not below a file
    unset = ("NST_EXP_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    environment = {"HOME": str(tmp_path / "file" / "home")} | dict.fromkeys(unset, "")
    done = run_process("cache_dir=null", "hydra.run.dir=sweep/0", folder=tmp_path, environment=environment)
    assert (done.code, done.stderr) == (0, "")
    assert "Error" not in done.stdout
    compared = subprocess.run(
        [sys.executable, "-m", "nst_exp.compare", "sweep"],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (compared.returncode, compared.stderr) == (0, "")


@pytest.mark.parametrize(
    "failure",
    [
        git.GitCommandError("git", "dubious ownership"),
        git.InvalidGitRepositoryError(),
        OSError(),
        ValueError("bad ref"),
    ],
)
def test_the_commit_is_only_information(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: git may be missing, refuse a checkout of somebody else, or find a damaged one; no run ends for that."""

    def broken(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(git, "Repo", broken)
    assert record.code_version.__wrapped__() == nst_exp.__version__


def test_versions_of_packages_are_only_information() -> None:
    assert installed_version("no-such-package") == "unknown"


def test_a_processor_without_a_name_is_only_information(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: systems that are not Linux, or that say something else of their processors."""
    monkeypatch.setattr(versions, "_PROCESSORS", tmp_path / "cpuinfo")
    assert versions.processor.__wrapped__()
    (tmp_path / "cpuinfo").write_bytes(b"processor\t: 0\nmodel name\t: Abacus \xff 9\n")
    assert versions.processor.__wrapped__().startswith("Abacus \ufffd 9 (")


def test_a_missing_home_folder_is_named() -> None:
    with pytest.raises(InputError, match="~nobody-of-this-name"):
        home_expanded("~nobody-of-this-name/a.png")


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert run_in_process(*SQLITE, folder=tmp_path).code == 0


# --- JAX ---------------------------------------------------------------------------------------------------------


def test_settings_of_jax_do_not_change_results(tmp_path: Path) -> None:
    """Kind: settings that other programs in the same shell need (types, promotion, debugging, random numbers)."""
    settings = {"JAX_ENABLE_X64": "1", "JAX_DEBUG_NANS": "1", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    settings |= {"JAX_RANDOM_SEED_OFFSET": "5", "JAX_TRANSFER_GUARD": "disallow", "JAX_NO_EXECUTION": "1"}
    done = run_process("init=noise", "hydra.run.dir=odd", folder=tmp_path, environment=settings)
    assert done.code == 0
    named = sorted(line.split(" ")[1] for line in done.stderr.splitlines())
    assert named == sorted(f"{name}={value}" for name, value in settings.items())
    run_in_process("init=noise", "hydra.run.dir=usual", folder=tmp_path)
    odd, usual = (RunFolder(tmp_path / name).result.sha256["pastiche"] for name in ("odd", "usual"))
    assert odd == usual


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    """Kind: JAX_PLATFORMS names a device without hardware, without its plugin, or that does not exist at all."""
    for platform, arguments in (("nonsense", ("precision=float32",)), ("cuda", ("-m", "seed=0,1"))):
        done = run_process(*arguments, folder=tmp_path, environment={"JAX_PLATFORMS": platform})
        assert done.code == 1
        lines = [line for line in done.stderr.splitlines() if line.startswith("nst_exp: ")]
        assert lines
        assert all(f"JAX_PLATFORMS={platform}: JAX cannot use this device" in line for line in lines)
        assert "Traceback" not in done.stdout + done.stderr
        assert not (tmp_path / OUT).exists()


@pytest.mark.parametrize("setting", ["XLA_FLAGS=--no_such_flag=1", "JAX_LOG_COMPILES=maybe"])
def test_a_setting_that_jax_does_not_accept(setting: str, tmp_path: Path) -> None:
    """Kind: JAX or XLA, which ends the whole process, knows neither the name nor the value of a setting."""
    name, _, value = setting.partition("=")
    done = run_process(*SQLITE, folder=tmp_path, environment={name: value})
    assert done.code == 1
    assert done.stderr.startswith("nst_exp: ")
    assert setting in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / OUT).exists()


def test_ignored_settings_are_those_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert devices.ignore_settings() == ["JAX_DISABLE_JIT=1"]
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_xla_is_told_to_compile_fast_where_there_is_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: settings of XLA that a user has made are kept, and a machine without a plugin for GPUs gets none."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    devices.set_gpu_defaults()
    assert "XLA_FLAGS" not in os.environ
    (tmp_path / "jax_plugins").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    devices.set_gpu_defaults()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_enable_triton_gemm=false"
    for given in ("--xla_gpu_enable_triton_gemm=true", "--xla_dump_to=x --xla_gpu_enable_triton_gemm=false"):
        monkeypatch.setenv("XLA_FLAGS", given)
        devices.set_gpu_defaults()
        assert os.environ["XLA_FLAGS"] == given


def test_a_package_without_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: an installation without what pip writes beside a package, such as a folder that was copied."""

    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert params_sha256(ParamsSource("bundled"), VGG, (), tmp_path)


# --- memory ------------------------------------------------------------------------------------------------------


def test_memory_of_a_container(tmp_path: Path) -> None:
    """Kind: the memory a process may use is less than the machine's; both versions of control groups, at any level."""
    own = tmp_path / "cgroup"

    def group(path: str, **files: object) -> None:
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / path / name.replace("memory_", "memory.")).write_text(f"{text}\n")

    group("two/a", memory_max=1000, memory_current=700, memory_stat="anon 1\ninactive_file 200")
    group("two/a/b", memory_max="max", memory_current=10, memory_stat="inactive_file 0")
    own.write_text("0::/a/b\n")
    assert memory._free_in_container(tmp_path / "two", own) == 500
    v1 = {"memory_limit_in_bytes": 900, "memory_usage_in_bytes": 300, "memory_stat": "total_inactive_file 100"}
    group("one/memory", **v1)
    own.write_text("4:cpu,cpuacct:/docker/x\n7:memory:/docker/x\n")  # the container sees its own group as the root
    assert memory._free_in_container(tmp_path / "one", own) == 700
    assert memory._free_in_container(tmp_path / "absent", own) == float("inf")
    assert memory._free_in_container(tmp_path, tmp_path / "absent") == float("inf")


@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit there")
def test_too_small_an_address_space_is_refused(tmp_path: Path) -> None:
    command = f"ulimit -v 1500000; exec '{sys.executable}' -m nst_exp.run --version"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("nst_exp: ulimit -v 1500000: ")
    assert len(done.stderr.splitlines()) == 1


# --- signals, closed outputs, full disks ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_signals_end_runs_properly(name: str, tmp_path: Path) -> None:
    """Kind: every signal that asks a command to end (Ctrl-C, a stopped job, a closed terminal), also if it is repeated.

    Shells and batch systems send more than one; Ctrl-C given again asks for something else, to end at once.
    """
    arguments = arguments_of("-m", "seed=0,1", "steps=100000", *SQLITE)
    command = [sys.executable, "-m", "nst_exp.run", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: (tmp_path / OUT / "0" / "progress").exists())
        time.sleep(0.5)
        for _ in range(1 if name == "SIGINT" else 3):
            process.send_signal(getattr(signal, name))
            time.sleep(0.02)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stdout + stderr
    assert "0 of 2 points done" in stdout
    assert statuses(tmp_path) == ["KILLED", "KILLED"]


@pytest.mark.parametrize("command", ["run", "compare", "reproduce", "upload", "__main__"])
def test_ctrl_c_while_a_command_starts(command: str, tmp_path: Path) -> None:
    """Kind: the second in which a command imports what it needs, before it can set up how it ends."""
    interrupting = f"""
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "nst_exp.config":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["nst-exp", "."]
runpy.run_module("nst_exp.{command}", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", interrupting], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "nst_exp: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_the_report_is_made(tmp_path: Path) -> None:
    """Kind: everything is computed, and only files made of it are on their way: nothing of it may be lost."""
    arguments = ("seed=0,1", f"registry={tmp_path / 'registry'}", *SQLITE)
    assert run_in_process("-m", *arguments, folder=tmp_path).code == 0
    out = tmp_path / OUT
    for number in range(2, 40):  # many points make the report slow
        shutil.copytree(out / "0", out / str(number))
    for path in out.glob("*.png"):
        path.unlink()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.parent != out and path.is_file()}
    command = [sys.executable, "-m", "nst_exp.run", *arguments_of("-m", *arguments)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("writing the report" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (130, "nst_exp: interrupted\n")
    pictures = [path for path in before if path.suffix != ".log"]
    assert {path: path.read_bytes() for path in pictures} == {path: before[path] for path in pictures}
    assert not list(out.rglob("*.tmp"))
    assert "RUNNING" not in statuses(tmp_path)
    compared = subprocess.run(
        [sys.executable, "-m", "nst_exp.compare", OUT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (compared.returncode, compared.stderr) == (0, "")
    assert "40 done; side by side: out/report.html" in compared.stdout
    assert (out / "report.html").read_text().endswith("</html>")
    with Image.open(out / "contact_sheet.png") as sheet:
        sheet.load()


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts signal handlers back."""
    before = {number: signal.getsignal(number) for number in signals.ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_which_signals_end_a_command() -> None:
    """Kind: every signal that ends a process from outside unless it is caught; what nohup ignores stays ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.end_as_interrupted()
    for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGXCPU", "SIGALRM", "SIGUSR1", "SIGUSR2"):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(getattr(signal, name))
        with camera._stop_on_signal() as ended:
            signal.raise_signal(signal.SIGHUP)
            assert not ended.is_set()
            signal.raise_signal(getattr(signal, name))
            assert ended.is_set()
    signal.raise_signal(signal.SIGHUP)


def test_closed_standard_streams(tmp_path: Path) -> None:
    """Kind: input, output or errors are closed (cron, daemons, `>&-`); files opened later must not take their place."""
    arguments = " ".join(f"'{argument}'" for argument in arguments_of("-m", "seed=0,1", *SQLITE))
    command = f"'{sys.executable}' -m nst_exp.run {arguments} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False).returncode == 0
    assert statuses(tmp_path) == ["FINISHED"] * 3
    assert all(RunFolder(tmp_path / OUT / str(number)).sound for number in range(2))


def test_an_output_that_nobody_reads(tmp_path: Path) -> None:
    """Kind: the reader of the output goes away (head, a pager); the work is done all the same, without a word."""
    command = [sys.executable, "-m", "nst_exp.run", *arguments_of("-m", "seed=0,1", *SQLITE)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
    assert statuses(tmp_path) == ["FINISHED"] * 3
    for arguments in (
        ["nst_exp.run", "--help"],
        ["nst_exp.compare", OUT],
        ["nst_exp.upload", "--help"],
    ):
        shell = f"'{sys.executable}' -m {' '.join(arguments)} | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        assert done.stdout.strip() in ("0", "141")  # 0: all was written before the reader went away


def test_a_full_disk_is_one_line_and_the_run_can_be_repeated(tmp_path: Path) -> None:
    """Kind: a file that cannot be written any further (full disk, quota, file size limit), while tracked as well."""
    limited = "ulimit -f 8; trap '' XFSZ; exec "  # no file above 8 kB: neither a picture nor a database
    arguments = " ".join(arguments_of("size=128", "tracking=sqlite", "tracking.store=store"))
    command = f"{limited} '{sys.executable}' -m nst_exp.run {arguments}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("nst_exp: ")]) == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert run_in_process("size=128", folder=tmp_path).code == 0


def test_lack_of_memory_is_an_input_error() -> None:
    assert issubclass(OutOfMemoryError, InputError)
