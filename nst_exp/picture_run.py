"""A picture's run: solved, measured, written down."""

from __future__ import annotations

import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from nst_exp.errors import InputError
from nst_exp.judgement import Pair, measure
from nst_exp.media.image import sha256_of, to_uint8, write_image
from nst_exp.memory import forget_peak, peak_mb
from nst_exp.preparation import Inputs, cache_folder, memory_explained, schedule_of, solver_method
from nst_exp.progress import progress
from nst_exp.results import PICTURE, RunFolder, Table, loss_column
from nst_exp.stylize import Lane, Progress, Solution, initial_image, stylize
from nst_exp.tracking import TrackedRun
from nst_exp.types import AnyImage


def paint_picture(inputs: Inputs, folder: RunFolder, run: TrackedRun) -> dict[str, Any]:
    """Solve, measure and write everything down."""
    forget_peak()
    started = time.monotonic()
    solution = _solve(inputs, folder, run)
    seconds = time.monotonic() - started
    write_image(folder.path / PICTURE, np.asarray(solution.pastiche))
    result = {
        "identity": folder.record.identity,
        "pastiche": PICTURE,
        "total_loss": solution.total_loss,
        "losses": solution.losses,
        "measures": _measures(inputs, solution),
        "steps": solution.steps,
        "evaluations": solution.evaluations,
        "restarts": solution.restarts,
        "seconds": seconds,
        "evaluations_per_second": solution.evaluations / seconds,
        "peak_memory_mb": peak_mb(),
        "sha256": {**inputs.plan.hashes, "pastiche": sha256_of(folder.path / PICTURE)},
    }
    folder.finish(result)
    return result


def _measures(inputs: Inputs, solution: Solution) -> dict[str, float]:
    """What the judge says of the picture as it is written: clipped and rounded to 8 bits."""
    plan, written = inputs.plan, jnp.asarray(to_uint8(solution.pastiche)[None], jnp.float32) / 255
    hashes = (plan.hashes["content"], plan.hashes["style"])
    pair = Pair(plan.files["content"], plan.files["style"], hashes, plan.config.aspect)
    return measure(plan.config.judge, pair, inputs.content_image, written, cache_folder(plan.config))


def _solve(inputs: Inputs, folder: RunFolder, run: TrackedRun) -> Solution:
    """The solution; its trace is written, and pictures on the way are kept and logged."""
    config, schedule = inputs.plan.config, schedule_of(inputs)
    snapshots = _snapshot_steps(schedule.steps, config.tracking.snapshots)
    lane = Lane(inputs.weights, inputs.content_image, inputs.style_image, seed=config.seed)
    _keep(initial_image(schedule, lane), 0, folder, run)  # where MLflow's image grid opens
    tables = []
    with progress(schedule.steps) as shown, memory_explained(config):

        def on_chunk(chunk: Progress) -> None:
            tables.append(_table(chunk))
            run.log_trace(tables[-1])
            while snapshots and chunk.steps_done >= snapshots[0]:
                _keep(chunk.best_image, snapshots.pop(0), folder, run)
            loss, evaluations = float(chunk.trace.totals[-1]), int(chunk.trace.evaluations[-1])
            shown.update(steps_done=chunk.steps_done, loss=loss, evaluations=evaluations)

        method = solver_method(config.solver)
        (solution,) = stylize(inputs.plan.objective, method, inputs.params, [lane], schedule, on_chunk)
    if isinstance(solution, InputError):
        raise solution
    folder.write_trace({name: np.concatenate([table[name] for table in tables]) for name in tables[0]})
    return solution


def _keep(image: AnyImage, step: int, folder: RunFolder, run: TrackedRun) -> None:
    write_image(folder.progress_file(step), image)
    run.log_picture(to_uint8(image), step)


def _table(chunk: Progress) -> Table:
    """The losses of every step of a chunk."""
    trace, count = chunk.trace, len(chunk.trace.totals)
    table = {"step": chunk.steps_done - count + 1 + np.arange(count), "loss/total": trace.totals}
    table |= {loss_column(name): row for name, row in trace.losses.items()}
    table |= {"solver/evaluations": trace.evaluations, "solver/scale": np.full(count, chunk.scale)}
    return {name: np.asarray(column) for name, column in table.items()}


def _snapshot_steps(steps: int, snapshots: int) -> list[int]:
    """`snapshots` steps spread evenly over a run, its end left out."""
    return [steps * (index + 1) // (snapshots + 1) for index in range(snapshots)]
