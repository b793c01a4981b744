"""The plugin by which Hydra finds the launcher `batched`.

Hydra imports this module whenever a command starts, so imports that take long are inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class BatchedLauncher(Launcher):
    """Solves the jobs of a sweep in batches. conf/hydra/launcher/batched.yaml selects it and explains its options.

    Args:
        max_batch_size: the largest number of jobs in a batch, from 1, or `auto`.
        memory_share: the share of the device's free memory that a batch may fill, above 0, at most 1.
    """

    def __init__(self, max_batch_size: float | str, memory_share: float | str) -> None:
        self.max_batch_size = max_batch_size
        self.memory_share = memory_share

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep Hydra's context and the configuration of the sweep for `launch`.

        Args:
            hydra_context: Hydra's context.
            task_function: not used, because `launch` solves jobs in batches.
            config: the composed configuration of the sweep.
        """
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs.

        Args:
            job_overrides: the overrides of each job.
            initial_job_idx: the number of the first job.

        Returns:
            The result of each job; if a job failed, its result has the error.

        Raises:
            InputError: if an option of the launcher is out of range.
        """
        from nst_exp.sweeps.launcher import Limits, launch

        limits = Limits.checked(self.max_batch_size, self.memory_share)
        return launch(self.hydra_context, self.config, job_overrides, initial_job_idx, limits)
