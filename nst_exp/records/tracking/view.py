"""What MLflow's pages show of runs and sweeps: names, the params beside a picture, ready views and links."""

from __future__ import annotations

import base64
import contextlib
import json
import shlex
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from nst_exp.errors import InputError
from nst_exp.grammar import plain_value
from nst_exp.records.tracking.store import Store, as_input_error, connect, experiment_id, fit_name

_MEASURES = ("score", "lpips", "style_distance")
_ALWAYS = ("content", "style", "content_weight", "style_weight")
_NOT_OF_THE_RESULT = ("cache_dir", "registry", "force", "optimized_metric", "tracking", "hydra")
_GROUP_TABLE = {"style_layer_weight": "style_layer_weights"}
_NAME_SHOWN = 24  # letters of a name that the table of runs shows
_VALUES_SHOWN = 4  # of a swept setting, in the name of the sweep
_LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` answers by default


# --- names -------------------------------------------------------------------------------------------------------


def point_name(swept: Sequence[str], number: int) -> str:
    """A name for a sweep's point that begins with its swept settings.

    Args:
        swept: the overrides that may differ from point to point.
        number: of the point, for sweeps without any.
    """
    pairs = [(key.lstrip("+").rpartition(".")[2], _short(value)) for key, _, value in map(_parted, swept)]
    name = " ".join(f"{key}={value}" for key, value in pairs)
    initials = [_initials(key) for key, _ in pairs]
    if len(name) > _NAME_SHOWN and len(set(initials)) == len(initials) > 1:
        name = " ".join(f"{short}={value}" for short, (_, value) in zip(initials, pairs, strict=True))
    return fit_name(name or f"point {number}")


def sweep_name(swept: Sequence[str]) -> str:
    """A name for a sweep that begins with its swept settings and their values.

    Args:
        swept: the overrides of the command that sweep over something.
    """
    named = (f"{key.lstrip('+').rpartition('.')[2]}={_few(value)}" for key, _, value in map(_parted, swept))
    return fit_name(" ".join(named) or "sweep")


def _parted(override: str) -> tuple[str, str, str]:
    key, equals, _ = override.partition("=")
    return key, equals, plain_value(override)  # without the quotes of Hydra's grammar


def _initials(key: str) -> str:
    """The first letters of a key's words, cw for content_weight; a single word stays as it is."""
    return "".join(word[:1] for word in key.split("_")) if "_" in key else key


def _short(value: str) -> str:
    """A value without the many digits that a search gives it, and a path without its folders."""
    with contextlib.suppress(ValueError):
        return f"{float(value):.4g}" if len(value) > 8 else value
    return value.strip("'\"").rstrip("/").rpartition("/")[2]


def _few(value: str) -> str:
    """The first and the last of many values."""
    if value.endswith(")"):  # a range or a function of Hydra's
        return value
    values = [_short(one) for one in value.split(",")]
    return ",".join(values if len(values) <= _VALUES_SHOWN else [*values[:2], "...", values[-1]])


# --- params ------------------------------------------------------------------------------------------------------


def shown_params(params: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The settings that MLflow gets as params: the main ones, and those that the command names.

    MLflow's image grid prints every param of a run above its picture, so that all of them would hide it. The
    complete settings are in the run's config.yaml and record.json.

    Args:
        params: every setting under its readable name.
        overrides: Hydra's, of this run.
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
    """The name under which the view of a sweep's points is kept in its experiment."""
    return f"sweep-{sweep_id[:12]}"


def add_view(client: Any, experiment: str, sweep_id: str, swept: Sequence[str]) -> None:
    """Keep a view in MLflow that shows a sweep's points with their swept settings and measures, the best first.

    The form of such a view is not documented, so nothing else may depend on it.
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
    """The name of the param that a swept override sets."""
    key = _parted(override)[0].lstrip("+~").partition("@")[0]
    table, dot, rest = key.partition(".")
    return f"{_GROUP_TABLE.get(table, table)}{dot}{rest}"


def page_of(store: Store, experiment: str, run_id: str, *, is_sweep: bool) -> str:
    """The address in MLflow's UI of a run's page, or of the table of a sweep's points."""
    base = store.shown.rstrip("/") if store.is_server else _LOCAL_UI
    runs = f"{base}/#/experiments/{experiment}/runs"
    if is_sweep:
        return f"{runs}?workflowType=machine_learning&viewStateShareKey={view_key(run_id)}"
    return f"{runs}/{run_id}?workflowType=machine_learning"


def how_to_open(store: Store, run_id: str, *, is_sweep: bool = False) -> str:
    """What to do, in one line, to see a run or a sweep in MLflow; empty if the store is gone or not there."""
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
    """The command that serves an sqlite store, as it can be pasted into a shell."""
    return f"mlflow ui --backend-store-uri {shlex.quote(store.uri)}"
