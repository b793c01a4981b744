"""A sweep's jobs in batches, each job with its own folder, log, MLflow run, result and failure.

Jobs are grouped by their runs' batch keys. A group is solved in batches that fit into memory; a batch that fails is
halved and tried again, until the failing job is alone. Hydra's `run_job` delivers every job, so folders, logs and
return values are those of Hydra's basic launcher.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from nst_exp.config import RunConfig
from nst_exp.devices import backend, keep_compiled_code
from nst_exp.errors import InputError, OutOfMemoryError
from nst_exp.explanations import one_line
from nst_exp.files import cache_folder
from nst_exp.outcome import Outcome
from nst_exp.records.folder import RunFolder
from nst_exp.records.result import Result
from nst_exp.runs.inputs import SolverSetup
from nst_exp.runs.progress import sweep_progress
from nst_exp.runs.run import Run, solve
from nst_exp.sweeps import job
from nst_exp.sweeps.search import number_of_points, returned
from nst_exp.transfer.stylize import entries_that_fit

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How many runs a batch may have.

    Attributes:
        max_batch_size: at most so many, from 1; None for as many as fit into memory.
        memory_share: the share of the device's free memory that a batch may fill, above 0, at most 1.

    Example:
        >>> Limits.checked(8, 0.9)
        Limits(max_batch_size=8, memory_share=0.9)
    """

    max_batch_size: int | None
    memory_share: float

    @classmethod
    def checked(cls, max_batch_size: float | str, memory_share: float | str) -> Limits:
        """Return the limits that conf/hydra/launcher/batched.yaml names, checked.

        Args:
            max_batch_size: from 1, or `auto`: 1 on a CPU, and as many as fit on other devices.
            memory_share: above 0, at most 1.

        Raises:
            InputError: if one is out of range.
        """
        if isinstance(memory_share, bool | str) or not 0 < memory_share <= 1:
            raise InputError(f"hydra.launcher.memory_share={memory_share}: must be a number above 0, at most 1")
        if max_batch_size == "auto":
            return cls(1 if backend() == "cpu" else None, memory_share)
        if type(max_batch_size) is not int or max_batch_size < 1:
            raise InputError(
                f"hydra.launcher.max_batch_size={max_batch_size}: must be auto or a whole number of at least 1"
            )
        return cls(max_batch_size, memory_share)

    def of(self, run: Run) -> int:
        """Return how many runs like this one a batch may have."""
        if self.max_batch_size == 1:
            return 1
        setup = SolverSetup.of(run.inputs)
        size = setup.schedule.sizes[-1]
        fitting = entries_that_fit(setup.objective, setup.method, run.inputs.params, size, self.memory_share)
        return fitting if self.max_batch_size is None else min(self.max_batch_size, fitting)


@dataclasses.dataclass
class _Job:
    """One job, from its configuration to its run.

    Attributes:
        config: composed, Hydra's part included.
        log_files: the files that the job logs to.
        checked: the job's configuration; None before it is checked.
        run: the job's run; None before it is prepared, and if it is finished already or has failed.
    """

    config: DictConfig
    log_files: Sequence[logging.FileHandler] = ()
    checked: RunConfig | None = None
    run: Run | None = None

    @property
    def number(self) -> int:
        return int(self.config.hydra.job.num)

    @property
    def folder(self) -> Path:
        return Path(self.config.hydra.runtime.output_dir)

    def prepare(self) -> None:
        """Check and read everything that the run needs.

        Raises:
            InputError: on anything that the user can put right.
        """
        config = copy.deepcopy(self.config)
        with read_write(config), open_dict(config):
            del config["hydra"]
        self.checked = job.checked(config)
        keep_compiled_code(cache_folder(self.checked.cache_dir) / "jax")
        self.run = Run.prepare(self.checked, self.folder, job.origin(self.checked, self.config.hydra))


def launch(
    context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int, limits: Limits
) -> list[JobReturn]:
    """Do a sweep's jobs in batches.

    Args:
        context: Hydra's.
        config: the sweep's composed configuration, Hydra's part included.
        job_overrides: the overrides of each job.
        first: the number of the first job; the others follow.
        limits: of a batch.

    Returns:
        A return for each job, in their order; the error of a job that failed is in its return.
    """
    return _Launch(context, config, limits).returns(job_overrides, first)


class _Launch:
    """One call of the launcher."""

    def __init__(self, context: HydraContext, config: DictConfig, limits: Limits) -> None:
        self._context, self._config, self._limits = context, config, limits
        self._returns: dict[int, JobReturn] = {}

    def returns(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        setup_globals()
        self._log_as_hydra()
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs = [self._composed(overrides, first + index) for index, overrides in enumerate(job_overrides)]
        with sweep_progress(number_of_points(self._config), first) as self._progress:
            for together in [[one] for one in jobs] if self._limits.max_batch_size == 1 else [jobs]:
                self._do(together)
        return [self._returns[one.number] for one in jobs]

    def _composed(self, overrides: Sequence[str], number: int) -> _Job:
        """Compose a job as Hydra's basic launcher does, with the folder that `run_job` gives it."""
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            folder = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir))
            config.hydra.runtime.output_dir = str(folder.absolute())
        return _Job(config)

    def _do(self, jobs: Sequence[_Job]) -> None:
        """Do all jobs; a job that would repeat another one comes after it, and takes over its result."""
        first: dict[str, _Job] = {}
        groups: dict[Hashable, list[_Job]] = defaultdict(list)
        repeating = []
        for one in jobs:
            if not self._prepared(one):
                continue
            assert one.run is not None
            if first.setdefault(one.run.description.identity, one) is one:
                groups[one.run.batch_key].append(one)
            else:
                repeating.append(one)
        for group in groups.values():
            self._work_in_batches(group)
        if repeating:
            self._do(repeating)

    def _prepared(self, one: _Job) -> bool:
        """Prepare a job; returns False if it has been delivered, because it is done already or has failed."""
        self._log_as_hydra()
        _log.info("\t#%d : %s", one.number, " ".join(filter_overrides(one.config.hydra.overrides.task)))
        one.folder.mkdir(parents=True, exist_ok=True)
        one.log_files = _log_as_job(one)
        try:
            with _logging_to([one]), _hydra_config(one.config):
                one.prepare()
        except Exception as error:
            self._deliver(one, _failing(error))
            return False
        if one.run is None:
            self._deliver(one, lambda: RunFolder(one.folder).result)
        return one.run is not None

    def _work_in_batches(self, group: Sequence[_Job]) -> None:
        """Work on a group in batches, and halve a batch that fails, until the failing job is alone."""
        assert group[0].run is not None
        most = self._limits.of(group[0].run)
        while group:
            batches = -(-len(group) // most)
            batch = group[: -(-len(group) // batches)]  # of equal sizes, because each size is compiled for itself
            try:
                self._work(batch)
            except Exception as error:
                if len(batch) > 1 and _may_be_halved(error):
                    most = len(batch) // 2
                    _log.warning("%d runs at once failed, now %d: %s", len(batch), most, one_line(error))
                    continue
                for one in batch:
                    self._deliver(one, _failing(error))
            group = group[len(batch) :]

    def _work(self, batch: Sequence[_Job]) -> None:
        """Solve a batch together, then deliver its jobs one by one; an error ends all its runs in MLflow, too."""
        _log_as_job(batch[0])
        with contextlib.ExitStack() as contexts:
            begun: list[tuple[_Job, Run]] = []
            for one in batch:
                assert one.run is not None
                try:
                    with _logging_to([one]):
                        begun.append((one, contexts.enter_context(one.run)))
                except Exception as error:  # one that cannot begin fails alone
                    self._deliver(one, _failing(error))
            if not begun:
                return
            jobs, runs = [one for one, _ in begun], [run for _, run in begun]
            with _logging_to(jobs):
                outcomes = solve(runs, within=lambda index: _logging_to([jobs[index]]))
            for one, run, outcome in zip(jobs, runs, outcomes, strict=True):
                self._deliver(one, partial(run.finish, outcome))

    def _deliver(self, one: _Job, result: Callable[[], Result]) -> None:
        """Let Hydra's `run_job` run the job, of which only `result` is left to do."""

        def task(_: DictConfig) -> float | tuple[float, ...]:
            with job.record_failure(one.config.hydra):
                found = result()
                assert one.checked is not None
                return returned(found, one.checked.optimized_metrics)

        self._returns[one.number] = run_job(
            hydra_context=self._context,
            task_function=task,
            config=one.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        self._log_as_hydra()
        self._progress.advance(solved=one.run is not None)

    def _log_as_hydra(self) -> None:
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)


def _may_be_halved(error: Exception) -> bool:
    """Return whether smaller batches may succeed: memory is short, or one point makes our own code fail.

    Errors that a user can put right, such as a full disk, are the same for the whole batch, so solving again would not
    help.
    """
    return isinstance(error, OutOfMemoryError) or not isinstance(error, InputError | OSError)


def _failing(error: Exception) -> Callable[[], Result]:
    """Return a function that raises `error` in place of returning a result."""
    failed: Outcome[Result] = Outcome(error=error)
    return failed.get


@contextlib.contextmanager
def _hydra_config(config: DictConfig) -> Iterator[None]:
    """Let `${hydra:...}` in a job's settings refer to this configuration within the context."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _log_as_job(one: _Job) -> list[logging.FileHandler]:
    """Log in the form of jobs, but to no file; return the files that the job logs to."""
    configure_log(one.config.hydra.job_logging, one.config.hydra.verbose)
    files = _file_handlers()
    _exchange(files, [])
    return files


@contextlib.contextmanager
def _logging_to(jobs: Sequence[_Job]) -> Iterator[None]:
    """Log to the files of these jobs, and to no others, within the context."""
    before, files = _file_handlers(), [file for one in jobs for file in one.log_files]
    _exchange(before, files)
    try:
        yield
    finally:
        _exchange(files, before)


def _file_handlers() -> list[logging.FileHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]


def _exchange(out: Iterable[logging.FileHandler], into: Iterable[logging.FileHandler]) -> None:
    """Exchange files that are logged to; those taken out are closed, and open again when there is more to write."""
    root = logging.getLogger()
    for file in out:
        root.removeHandler(file)
        file.close()
    for file in into:
        root.addHandler(file)
