"""The PyTorch half of scripts/bench: the same loss and gradient, in a process and an interpreter of its own.

It reads JSON commands from stdin, one on each line, and answers each with a line of JSON on stdout:

    {"load": {...}}                     prepare; the fields are those of `Settings`
        -> {LAYOUT: loss}; gradients are written to `folder`
    {"go": [LAYOUT, CALLS]}             evaluate
        -> seconds per evaluation
    {"solve": [LAYOUT, EVALUATIONS, HISTORY]}  minimise by torch.optim.LBFGS from noise.npy in `folder`
        -> [[seconds so far, loss] of each evaluation]

It needs PyTorch and NumPy, and nothing of nst_exp. It runs eagerly, because `torch.compile` (2.13, CPU) takes a minute
for this loss and then fails on an assertion about strides.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nn

DEVICE = sys.argv[1] if sys.argv[1:] else "cpu"  # JAX's device; JAX may find no GPU although PyTorch does
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

Maps = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to compute; `folder` holds params.npz and images.npz, which scripts/bench writes."""

    folder: str
    precision: str
    content_layers: list[str]
    style_layers: list[str]
    weights: dict[str, float | list[float]]


class Loss:
    """The relative loss of nst_exp/transfer/objective.py, with its targets, in one memory layout."""

    def __init__(self, settings: Settings, layout: torch.memory_format) -> None:
        self.settings, self.layout = settings, layout
        self.dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
        params = np.load(Path(settings.folder, "params.npz"))
        self.mean, self.std = (torch.tensor(params[name], device=DEVICE)[:, None, None] for name in ("mean", "std"))
        self.params = {
            name.removesuffix("/kernel"): (
                self._put(params[name].transpose(3, 2, 0, 1)).to(self.dtype),
                torch.tensor(params[name.replace("kernel", "bias")], device=DEVICE, dtype=self.dtype),
            )
            for name in params.files
            if name.endswith("/kernel")
        }
        images = np.load(Path(settings.folder, "images.npz"))
        content, style, image = (
            self._put(images[name].transpose(0, 3, 1, 2)) for name in ("content", "style", "image")
        )
        self.image = image.requires_grad_()
        self.style_weights = torch.tensor(settings.weights["style_layers"], device=DEVICE)
        with torch.no_grad():
            maps = self._features(content)
            self.content = {layer: maps[layer].float() for layer in settings.content_layers}
            maps = self._features(style)
            self.style = {layer: self._gram(maps[layer]) for layer in settings.style_layers}

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        maps = self._features(image)
        content = [_relative_error(maps[layer].float(), target) for layer, target in self.content.items()]
        style = [_relative_error(self._gram(maps[layer]), target) for layer, target in self.style.items()]
        down, across = image[:, :, 1:] - image[:, :, :-1], image[..., 1:] - image[..., :-1]
        terms = {
            "content": torch.stack(content).mean(),
            "style": torch.dot(self.style_weights, torch.stack(style)),
            "tv": down.square().mean() + across.square().mean(),
            "range": (image - image.clamp(0, 1)).square().mean(),
        }
        return sum(self.settings.weights[name] * term for name, term in terms.items())

    def evaluate(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The value and its gradient."""
        total = self(self.image)
        return total.detach(), torch.autograd.grad(total, self.image)[0]

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=DEVICE).to(memory_format=self.layout)

    def _features(self, image: torch.Tensor) -> Maps:
        x = ((image - self.mean) / self.std).to(self.dtype)
        maps: Maps = {}
        for layer, (kernel, bias) in self.params.items():
            if not maps:
                x = nn.pad(x, (1, 1, 1, 1), mode="replicate")
            elif layer.endswith("conv1"):
                x = nn.avg_pool2d(x, 2)
            # in place, as PyTorch programs do: a convolution's gradient does not need its output
            x = maps[layer] = nn.relu(nn.conv2d(x, kernel, bias, padding=1 if maps else 0), inplace=True)
        return maps

    def _gram(self, feature_map: torch.Tensor) -> torch.Tensor:
        """The Gram matrix, without a copy in either layout: channels by pixels, or pixels by channels."""
        x = feature_map.float()[0]
        if self.layout == torch.contiguous_format:
            by_channel = x.flatten(1)
            return by_channel @ by_channel.T / x.numel()
        by_pixel = x.permute(1, 2, 0).flatten(0, 1)
        return by_pixel.T @ by_pixel / x.numel()


def _relative_error(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (values - target).square().sum() / target.square().sum()


def _seconds(loss: Loss, calls: int) -> float:
    """Seconds per call. It waits for a GPU only after the last call, as a solver does not wait for each step either."""
    start = time.perf_counter()
    for _ in range(calls):
        loss.evaluate()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def _solve(loss: Loss, evaluations: int, history: int) -> list[tuple[float, float]]:
    """[seconds so far, loss] of each evaluation, with unit steps as in PyTorch's style transfer programs."""
    start = np.load(Path(loss.settings.folder, "noise.npy"))
    image = torch.tensor(start.transpose(0, 3, 1, 2), device=DEVICE).to(memory_format=loss.layout).requires_grad_()
    # with lr=1 the first step is min(1, 1 / |gradient|_1) and the others are unit steps; zero tolerances never stop it
    solver = torch.optim.LBFGS(
        [image],
        lr=1,
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=history,
        tolerance_grad=0,
        tolerance_change=0,
    )
    begun, trace = time.perf_counter(), []

    def closure() -> torch.Tensor:
        solver.zero_grad()
        total = loss(image)
        total.backward()
        trace.append((time.perf_counter() - begun, float(total.detach())))
        return total

    solver.step(closure)
    return trace


def _load(settings: Settings) -> tuple[dict[str, Loss], dict[str, float]]:
    """The loss in each layout, warmed up, and its value; the gradient is written to LAYOUT.npy, NHWC."""
    torch.backends.cudnn.allow_tf32 = settings.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = False  # Gram matrices are always float32
    torch.backends.cudnn.benchmark = True
    losses = {name: Loss(settings, layout) for name, layout in LAYOUTS.items()}
    totals = {}
    for name, loss in losses.items():
        total, gradient = loss.evaluate()
        totals[name] = float(total)
        np.save(Path(settings.folder, f"{name}.npy"), gradient.cpu().permute(0, 2, 3, 1).contiguous().numpy())
        loss.evaluate()
    return losses, totals


def main() -> None:
    """Print version and device, then carry out commands until stdin ends."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    answer: object = {"torch": torch.__version__, "device": DEVICE, "threads": torch.get_num_threads()}
    print(json.dumps(answer), flush=True)
    losses: dict[str, Loss] = {}
    for line in sys.stdin:
        command = json.loads(line)
        if "load" in command:
            losses.clear()  # first, because the tensors of two sizes need not fit into memory together
            losses, answer = _load(Settings(**command["load"]))
        elif "solve" in command:
            layout, evaluations, history = command["solve"]
            answer = _solve(losses[layout], evaluations, history)
        else:
            layout, calls = command["go"]
            answer = _seconds(losses[layout], calls)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
