"""Compare the runs of a sweep: a table here, and a page with pictures, plots and every command.

    python -m nst_exp.compare                                 # the latest sweep below ./outputs
    python -m nst_exp.compare outputs/DATE/TIME               # a sweep's folder, also while it is going
    python -m nst_exp.compare RUN_ID                          # a sweep's parent run in MLflow
    python -m nst_exp.compare EXPERIMENT                      # all runs of an MLflow experiment
    python -m nst_exp.compare --filter "content_weight == 4 and lpips < 0.3" --sort style_distance,-ssim

Filters and sort keys are the names of settings, measures and costs. A filter compares them with numbers and with
texts in quotes (== != < <= > >= in), joins conditions by and, or, not and parentheses, and takes any other word as
one to look for in a run's command and settings. The filter of the page has the same language.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from nst_exp.commands.process import program, run_command
from nst_exp.errors import InputError
from nst_exp.files import home_expanded, write_atomically, write_json
from nst_exp.records.folder import CONFIG, PICTURE, RESULT, TRACE, Record, RunFolder, Tracked, run_folders

_OUTPUTS = Path("outputs")
_DOWNLOADS = "compare"  # below outputs: what was fetched from MLflow
_SELECTION = "selection"  # below a sweep's folder: the report of some of its runs
_SWEEP = "sweep.json"
_WIDE = 1000  # letters, of a table that goes to a file
_WANTED = (CONFIG, RESULT, TRACE, PICTURE, "record.json", "failure.json", ".hydra/overrides.yaml")
_PARENT = "mlflow.parentRunId"


def _compare(arguments: argparse.Namespace) -> int:
    folder = _folder(arguments)
    from nst_exp import report
    from nst_exp.console import OutputConsole

    sweep = report.select(report.read_sweep(folder), arguments.filter, arguments.sort)
    if not sweep.points:
        what = f"no run meets --filter={arguments.filter!r}" if arguments.filter else "no run has begun yet"
        raise InputError(f"{str(folder)!r}: {what}")
    is_all = not arguments.filter and not arguments.sort
    into = arguments.output or (folder if is_all else folder / _SELECTION)
    foreign = [] if (into / _SWEEP).is_file() else report.foreign_files(into)
    if foreign:
        raise InputError(
            f"{str(into)!r} holds {', '.join(foreign)}, which no report has written: give another --output"
        )
    written = report.write_report(folder, into, sweep=sweep)
    width = None if sys.stdout.isatty() else _WIDE
    report.print_table(sweep, report.lay_out(sweep), OutputConsole(highlight=False, width=width))
    counts = ", ".join(f"{count} {status}" for status, count in written.counts.items() if count)
    print(f"\n{counts}; side by side: {shlex.quote(str(written.page))}")
    if arguments.open and written.page:
        webbrowser.open(written.page.absolute().as_uri())
    return 0


# --- what to compare -------------------------------------------------------------------------------------------


def _folder(arguments: argparse.Namespace) -> Path:
    """The folder with the runs; what MLflow has is brought into one."""
    if arguments.what is None:
        return _latest()
    folder = home_expanded(arguments.what)
    if folder.is_dir():
        return _checked(folder)
    return _fetched(arguments.what, arguments.tracking_uri)


def _latest() -> Path:
    sweeps = list(_sweeps(_OUTPUTS))
    if not sweeps:
        raise InputError(f"no sweep below {str(_OUTPUTS.absolute())!r}: give a sweep's folder or an MLflow run id")
    return max(sweeps, key=lambda folder: (folder / _SWEEP).stat().st_mtime)


def _sweeps(outputs: Path) -> Iterator[Path]:
    """The folders of sweeps; their runs, downloads and MLflow's files are not looked through."""
    for folder, inner, files in os.walk(outputs):
        if _SWEEP in files:
            yield Path(folder)
            inner.clear()
        elif Path(folder) == outputs:
            inner[:] = [name for name in inner if name not in (_DOWNLOADS, "mlartifacts")]


def _checked(folder: Path) -> Path:
    """`folder`, if it is a sweep's."""
    if RunFolder(folder).finished:
        raise InputError(f"{str(folder)!r} is a single run: give the folder of a sweep")
    if not (folder / _SWEEP).is_file() and not run_folders(folder):
        raise InputError(f"{str(folder)!r} holds no sweep: neither {_SWEEP} nor numbered folders of runs")
    return folder


# --- what MLflow has ---------------------------------------------------------------------------------------------


def _fetched(what: str, uri: str | None) -> Path:
    """The folder of the parent run or experiment `what`: its own if it is on this machine, else a copy.

    Raises:
        InputError: if there is no such run or experiment.
    """
    from mlflow.exceptions import MlflowException

    from nst_exp.records import tracking

    try:
        store = tracking.existing_store(uri)
    except InputError as error:
        raise InputError(f"{what!r} is no folder, and {error}") from error
    client = tracking.connect(store)
    try:
        parent = _parent(client, what)
        if parent is None:
            runs = _experiment_runs(client, what, store.uri)
            return _download(client, store.uri, runs, _OUTPUTS / _DOWNLOADS / re.sub(r"[^\w.-]", "_", what))
        local = Path(parent.data.tags.get("folder", ""))
        if _is_of(local, parent.info.run_id):
            return local
        children = _search(client, parent.info.experiment_id, f"tags.`{_PARENT}` = '{parent.info.run_id}'")
        folder = _OUTPUTS / _DOWNLOADS / parent.info.run_id
        _download(client, store.uri, children, folder)
    except (OSError, MlflowException) as error:
        raise InputError(f"{what}: {' '.join(str(error).split())}") from error
    command = tracking.sweep_command(client, parent)
    write_json(folder / _SWEEP, {"key": "", "overrides": command, "mlflow_run_id": parent.info.run_id})
    return folder


def _parent(client: Any, what: str) -> Any:
    """The sweep with this run id, also if it is the id of one of its runs; None if it is none.

    Raises:
        InputError: if the run is no part of a sweep.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(what)
    except MlflowException:
        return None
    if _PARENT in run.data.tags:
        return client.get_run(run.data.tags[_PARENT])
    if not _search(client, run.info.experiment_id, f"tags.`{_PARENT}` = '{what}'"):
        raise InputError(f"run {what} is no sweep: it has no runs below it")
    return run


def _experiment_runs(client: Any, name: str, uri: str) -> list[Any]:
    """All runs of an experiment that are no sweeps."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        names = ", ".join(other.name for other in client.search_experiments())
        raise InputError(f"{name!r} is no folder, and no run or experiment in {uri}; experiments there: {names}")
    runs = _search(client, experiment.experiment_id, "")
    parents = {run.data.tags.get(_PARENT) for run in runs}
    alone = [run for run in runs if run.data.params and run.info.run_id not in parents]
    if not alone:
        raise InputError(f"experiment {name!r} in {uri} has no runs")
    return alone


def _search(client: Any, experiment: str, condition: str) -> list[Any]:
    """All runs that meet a condition, the oldest first."""
    runs: list[Any] = []
    page: Any = None
    while page is None or page.token:
        page = client.search_runs(
            [experiment], condition, order_by=["attributes.start_time"], page_token=page and page.token
        )
        runs += page
    return runs


def _is_of(folder: Path, run_id: str) -> bool:
    """Whether `folder`, as noted in MLflow, is on this machine and holds the sweep of that run."""
    try:
        return run_id in (folder / _SWEEP).read_text()
    except OSError:
        return False


def _download(client: Any, uri: str, runs: Sequence[Any], folder: Path) -> Path:
    """The files of each run in a numbered folder; what was fetched before is kept."""
    for number, run in zip(_numbers(runs), runs, strict=True):
        run_folder = RunFolder(folder / str(number))
        tracked = Tracked(uri, run.info.run_id)
        if run_folder.finished and run_folder.tracked == tracked:
            continue
        run_folder.path.mkdir(parents=True, exist_ok=True)
        _begin(run_folder, run, uri)
        for file in _WANTED:
            if _is_there(client, run.info.run_id, file):
                client.download_artifacts(run.info.run_id, file, str(run_folder.path))
        result = run_folder.result_so_far
        if result is not None and result.video and _is_there(client, run.info.run_id, result.video):
            client.download_artifacts(run.info.run_id, result.video, str(run_folder.path))
        if run.info.status == "FINISHED":
            run_folder.mark_tracked(tracked)
    return folder


def _numbers(runs: Sequence[Any]) -> list[int]:
    """The runs' numbers in their sweep, as a tag or, of older runs, before their names; else they are counted."""
    noted = [run.data.tags.get("point") or (run.info.run_name or "").partition(":")[0] for run in runs]
    numbers = [int(number) for number in noted if number.isdecimal()]
    return numbers if len(numbers) == len(set(numbers)) == len(runs) else list(range(len(runs)))


def _begin(folder: RunFolder, run: Any, uri: str) -> None:
    """What MLflow knows of a run, finished or not."""
    overrides = shlex.split(run.data.tags.get("overrides", ""))
    record = Record(
        run.data.tags.get("identity", ""), run.info.run_name or "", overrides, run.data.params, run.data.tags, uri
    )
    folder.begin({}, record)
    (folder.path / ".hydra").mkdir(exist_ok=True)
    write_atomically(folder.path / ".hydra" / "overrides.yaml", yaml.safe_dump(overrides).encode())
    if run.info.status in ("FAILED", "KILLED"):
        folder.fail(f"MLflow says {run.info.status}", overrides)


def _is_there(client: Any, run_id: str, file: str) -> bool:
    parent = str(Path(file).parent)
    return file in {other.path for other in client.list_artifacts(run_id, None if parent == "." else parent)}


# --- command line ------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> Any:
        self.exit(2, f"nst_exp: {message}; see {self.prog} --help\n")


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog=program("compare"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", metavar="WHAT", help="default: the latest sweep below ./outputs")
    parser.add_argument(
        "--filter", default="", metavar="EXPR", help="which runs: comparisons with and, or, not; or words to look for"
    )
    parser.add_argument(
        "--sort", default="", metavar="KEY,-KEY", help="by settings, measures or costs; - for descending"
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="default: $MLFLOW_TRACKING_URI, else outputs/mlflow.db")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"default: the sweep's folder, or its folder {_SELECTION}/ with --filter or --sort",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    # argparse takes -KEY for an option, unless it is one word with --sort
    glued = re.sub(r"(^|\0)--sort\0(?=-)", r"\1--sort=", "\0".join(arguments)).split("\0") if arguments else []
    found = parser.parse_args(glued)
    found.sort = [key for key in found.sort.split(",") if key]
    return found


def main() -> None:
    """Run the command and exit: 0 done, 1 refused, 2 wrong usage."""
    run_command(_compare, lambda: _arguments(sys.argv[1:]))
