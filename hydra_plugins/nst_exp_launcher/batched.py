"""The launcher that Hydra finds; Hydra imports this module at every start, so what it does is imported when used."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class BatchedLauncher(Launcher):
    """Solves a sweep's jobs side by side; conf/hydra/launcher/batched.yaml says what its options mean."""

    def __init__(self, max_batch_size: float | str, memory_share: float | str) -> None:
        self.max_batch_size = max_batch_size
        self.memory_share = memory_share

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra says of the sweep."""
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do all jobs; each has its own return, be it an error."""
        from nst_exp.sweeps.launcher import Limits, launch

        limits = Limits.checked(self.max_batch_size, self.memory_share)
        return launch(self.hydra_context, self.config, job_overrides, initial_job_idx, limits)
