"""How runs and sweeps look in MLflow's pages: names, the params beside a picture, ready views and links."""

from __future__ import annotations

import base64
import contextlib
import json
import shlex
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nst_exp.errors import InputError
from nst_exp.grammar import plain_value
from nst_exp.records.tracking.store import Store, as_input_error, connect, experiment_id, fit_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MEASURES = ("score", "lpips", "style_distance")
_ALWAYS = ("content", "style", "content_weight", "style_weight")
_NOT_OF_THE_RESULT = ("cache_dir", "registry", "force", "optimized_metric", "tracking", "hydra")
_GROUP_TABLE = {"style_layer_weight": "style_layer_weights"}
_NAME_SHOWN = 24  # letters of a name that the table of runs shows
_VALUES_SHOWN = 4  # of a swept setting, in the name of the sweep
_LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` answers by default


# --- names -------------------------------------------------------------------------------------------------------


def point_name(swept: Sequence[str], number: int) -> str:
    """Return a name for a sweep's point that begins with its swept settings.

    MLflow shows the first two dozen letters, so the keys of long names are shortened to their initials.

    Args:
        swept: the point's overrides that may differ from point to point.
        number: the point's number, used if there are no such overrides.

    Example:
        >>> point_name(["content_weight=4"], 1)
        'content_weight=4'
        >>> point_name(["content_weight=4", "style_weight=0.03"], 1)
        'cw=4 sw=0.03'
    """
    pairs = [(key.lstrip("+").rpartition(".")[2], _short(value)) for key, _, value in map(_parted, swept)]
    name = " ".join(f"{key}={value}" for key, value in pairs)
    initials = [_initials(key) for key, _ in pairs]
    if len(name) > _NAME_SHOWN and len(set(initials)) == len(initials) > 1:
        name = " ".join(f"{short}={value}" for short, (_, value) in zip(initials, pairs, strict=True))
    return fit_name(name or f"point {number}")


def sweep_name(swept: Sequence[str]) -> str:
    """Return a name for a sweep that begins with its swept settings and their values.

    Args:
        swept: the overrides of the command that sweep over something.
    """
    named = (f"{key.lstrip('+').rpartition('.')[2]}={_few(value)}" for key, _, value in map(_parted, swept))
    return fit_name(" ".join(named) or "sweep")


def _parted(override: str) -> tuple[str, str, str]:
    key, equals, _ = override.partition("=")
    return key, equals, plain_value(override)  # without the quotes of Hydra's grammar


def _initials(key: str) -> str:
    """Return the first letters of a key's words, cw for content_weight; a single word stays as it is."""
    return "".join(word[:1] for word in key.split("_")) if "_" in key else key


def _short(value: str) -> str:
    """Return a value without the many digits that a search gives it, and a path without its folders."""
    with contextlib.suppress(ValueError):
        return f"{float(value):.4g}" if len(value) > 8 else value
    return value.strip("'\"").rstrip("/").rpartition("/")[2]


def _few(value: str) -> str:
    """Return the first values and the last one if there are many, else all."""
    if value.endswith(")"):  # a range or a function of Hydra's
        return value
    values = [_short(one) for one in value.split(",")]
    return ",".join(values if len(values) <= _VALUES_SHOWN else [*values[:2], "...", values[-1]])


# --- params ------------------------------------------------------------------------------------------------------


def shown_params(params: Mapping[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """Return the settings that MLflow gets as params: the main ones, and those that the command sets.

    MLflow's image grid prints every param of a run above its picture, so all settings would hide the picture. The
    complete settings are in the run's config.yaml and record.json.

    Args:
        params: every setting under its readable name.
        overrides: Hydra's overrides of this run.
    """
    shown = {name: params[name] for name in _ALWAYS if name in params}
    if params.get("source", "image") != "image":
        shown |= {name: params[name] for name in ("source", "video.mode") if name in params}
    for override in overrides:
        key, _, value = _parted(override)
        name = key.lstrip("+~").partition("@")[0]
        table, _, rest = name.partition(".")
        if table in _NOT_OF_THE_RESULT:
            continue
        if name in params:
            shown[name] = params[name]
        elif table in _GROUP_TABLE and rest:
            known = f"{_GROUP_TABLE[table]}.{rest}"
            shown[known] = params.get(known, value)
        elif not rest:  # the choice of a group, such as experiment=article
            shown[name] = value
    return shown


# --- ready views and links -----------------------------------------------------------------------------------------


def view_key(sweep_id: str) -> str:
    """Return the name under which the view of a sweep's points is kept in its experiment."""
    return f"sweep-{sweep_id[:12]}"


def add_view(client: MlflowClient, experiment: str, sweep_id: str, swept: Sequence[str]) -> None:
    """Add a view to MLflow that shows a sweep's points with their swept settings and measures, the best first.

    The form of such a view is not documented, so nothing else may depend on it.

    Args:
        experiment: the id of the experiment.
        sweep_id: the id of the sweep's parent run.
        swept: the overrides of the command that sweep over something.
    """
    settings = dict.fromkeys([_table_name(override) for override in swept] or _ALWAYS[2:])
    columns = [f"params.`{name}`" for name in settings] + [f"metrics.`measure/{name}`" for name in _MEASURES]
    state = {
        "searchFilter": f'tags.`mlflow.parentRunId` = "{sweep_id}"',
        "orderByKey": "metrics.`measure/score`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsExpanded": {sweep_id: True},
    }
    packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    now = time.time_ns() // 1_000_000
    view = {"name": sweep_name(swept), "createdAt": now, "updatedAt": now, "state": packed}
    client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{view_key(sweep_id)}", json.dumps(view))


def _table_name(override: str) -> str:
    """Return the name of the param that a swept override sets."""
    key = _parted(override)[0].lstrip("+~").partition("@")[0]
    table, dot, rest = key.partition(".")
    return f"{_GROUP_TABLE.get(table, table)}{dot}{rest}"


def page_of(store: Store, experiment: str, run_id: str, *, is_sweep: bool) -> str:
    """Return the address in MLflow's UI of a run's page, or of the table of a sweep's points."""
    base = store.shown.rstrip("/") if store.is_server else _LOCAL_UI
    runs = f"{base}/#/experiments/{experiment}/runs"
    if is_sweep:
        return f"{runs}?workflowType=machine_learning&viewStateShareKey={view_key(run_id)}"
    return f"{runs}/{run_id}?workflowType=machine_learning"


def how_to_open(store: Store, run_id: str, *, is_sweep: bool = False) -> str:
    """Return, in one line, what to do to see a run or a sweep in MLflow; empty if the store cannot be used.

    Args:
        run_id: of the run, or of a sweep's parent run.
        is_sweep: whether the run is a sweep's parent run.
    """
    if not store.tracks:
        return ""
    try:
        with as_input_error(store):
            page = page_of(store, experiment_id(connect(store), store), run_id, is_sweep=is_sweep)
    except InputError:
        return ""
    if store.is_server:
        return page
    return f"{ui_command(store)}   then open {page}"


def ui_command(store: Store) -> str:
    """Return the command that serves an sqlite store, as it can be pasted into a shell."""
    return f"mlflow ui --backend-store-uri {shlex.quote(store.uri)}"
