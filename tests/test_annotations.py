"""Every annotation of the package can be evaluated, so that none is skipped by the type checks of the other tests."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import typing
from types import ModuleType
from typing import Any

import command  # imports the package once, with warnings of other packages silenced
import pytest

import nst_exp

sys.path.insert(0, str(nst_exp.__path__[0] + "/../scripts"))
import conf_defaults
from hydra import compose, initialize_config_dir

assert command
MODULES = sorted(module.name for module in pkgutil.walk_packages(nst_exp.__path__, "nst_exp."))


def only_for_type_checkers(module: ModuleType) -> dict[str, Any]:
    """The names that a module imports under `if TYPE_CHECKING`."""
    tree = ast.parse(inspect.getsource(module))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imported = [name for block in blocks for node in ast.walk(block) for name in getattr(node, "names", ())]
    return {(name.asname or name.name).partition(".")[0]: Any for name in imported}


def annotated(module: ModuleType) -> list[Any]:
    """The functions, classes and methods that a module defines."""
    own = [item for item in vars(module).values() if getattr(item, "__module__", None) == module.__name__]
    classes = [item for item in own if inspect.isclass(item)]
    methods = [method for cls in classes for method in vars(cls).values() if inspect.isfunction(method)]
    return [item for item in (*own, *methods) if inspect.isclass(item) or inspect.isfunction(item)]


@pytest.mark.parametrize("name", MODULES)
def test_annotations_are_valid(name: str) -> None:
    """Kind: jaxtyping silently skips a class or function with an annotation that it cannot evaluate."""
    module = importlib.import_module(name)
    known = {**vars(module), **only_for_type_checkers(module)}
    for item in annotated(module):
        typing.get_type_hints(inspect.unwrap(item), globalns=known, localns=known)


def test_scripts_measure_with_the_defaults_of_conf() -> None:
    """Kind: a number of conf/ that is repeated elsewhere, where it can differ."""
    with initialize_config_dir(str(conf_defaults._CONF), version_base="1.3"):
        config = compose("run")
    weights, scales = conf_defaults.weights()
    assert weights == {name: config[name] for name in weights}
    style_scale = config.loss.style_scale * config.style_loss.scale
    assert scales == {"style": style_scale, "content": config.content_loss.scale}
    assert conf_defaults.losses() == (config.loss.name, config.style_loss.name, config.content_loss.name)
    content, style = conf_defaults.layers()
    assert content == (config.content_layer,)
    assert style == {layer: config.style_layer_weight[layer] for layer in config.style_layers}
    assert conf_defaults.solver() == (config.solver.history_size, config.solver.first_step)
