"""The typed schema of `conf/`, which also checks the values that types cannot check.

Hydra composes `conf/` against `RunConfig`, which rejects unknown keys and wrong types. Making an instance then checks
every value, and raises an `InputError` that names the key, its value and the allowed values. conf/run.yaml and the
files of the groups in conf/ say what each key means; most fields have the names and the meaning of their keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nst_exp import conf_files
from nst_exp.errors import InputError
from nst_exp.grammar import escape_all
from nst_exp.media.codecs import CODECS
from nst_exp.media.sizes import ASPECTS
from nst_exp.params.pixels import PREPROCESSINGS
from nst_exp.suggestions import did_you_mean

EVALUATORS = {"vgg16": "bundled", "tiny": "random"}  # the networks of the evaluator, and the source of their params
# The allowed values of keys. Those that are options in conf/, or in a table elsewhere, are taken from there.
CHOICES: dict[str, tuple[str, ...]] = {
    "source": ("auto", "image", "video", "camera"),
    "aspect": ASPECTS,
    "pooling": ("average", "max", "l2"),
    "padding": ("zeros", "replicate"),
    "precision": ("auto", "float32", "tf32", "bfloat16"),
    "evaluator": tuple(EVALUATORS),
    "init": ("content", "colours", "noise", "style"),
    "network.name": conf_files.options("network"),
    "network.smoothing": ("softmax",),
    "params.source": conf_files.options("params"),
    "params.preprocessing": tuple(PREPROCESSINGS),
    "loss.name": conf_files.options("loss"),
    "style_loss.name": conf_files.options("style_loss"),
    "content_loss.name": conf_files.options("content_loss"),
    "colour.name": conf_files.options("colour"),
    "colour.match": ("moments", "histogram"),
    "layer_weights.name": conf_files.options("layer_weights"),
    "solver.name": conf_files.options("solver"),
    "solver.linesearch": ("none", "zoom", "hager-zhang"),
    "video.mode": conf_files.options("video"),
    "video.estimator": ("dis",),
    "video.on_corrupt": ("error", "skip"),
    "video.write": ("video", "frames", "side_by_side"),
    "video.codec": tuple(CODECS),
    "tracking.backend": conf_files.options("tracking"),
}
# the names of keys in earlier versions, which still work, and their present names; see `current_name`
RENAMED = {
    "judge": "evaluator",
    "ledger": "registry",
    "video.lanes": "video.max_batch_size",
    "hydra.launcher.lanes": "hydra.launcher.max_batch_size",
}
BOOLEANS = ("video.sound", "force")
_EXPERIMENT_LENGTH = 250  # letters, the smallest limit among the databases that MLflow supports
_LARGEST = 1e30  # the largest weight; its product with a loss must fit into float32


@dataclass
class NetworkConfig:
    """The options of conf/network: the architecture of the network.

    `smoothing` and `style_scale` have defaults because configurations of earlier versions lack them. Unless they are
    set, they are not part of the identity of a run.

    Attributes:
        name: a name in `nst_exp.networks.ARCHITECTURES`.
        smoothing: the smoothing of features, `softmax` or None.
        style_scale: a factor of `loss.style_scale`, above 0; None for 1.

    Raises:
        InputError: if a value is not allowed.
    """

    name: str
    smoothing: str | None = None
    style_scale: float | None = None

    def __post_init__(self) -> None:
        if self.style_scale is not None:
            _check_positive("network.style_scale", self.style_scale)
        if self.smoothing is not None:
            _check_choice("network.smoothing", self.smoothing)


@dataclass
class ParamsConfig:
    """The options of conf/params: the source of the network's params.

    Attributes:
        source: an option of conf/params.
        path: a local file; required by `safetensors`, and in place of a download for some other sources.
        preprocessing: how pixels are preprocessed, if neither the source nor its file says so; None to find out.
        seed: the seed of `source=random`, 0 or above.

    Raises:
        InputError: if a value is not allowed.
    """

    source: str
    path: str | None
    preprocessing: str | None
    seed: int

    def __post_init__(self) -> None:
        _check_choice("params.source", self.source)
        if self.preprocessing is not None:
            _check_choice("params.preprocessing", self.preprocessing)
        if self.source == "safetensors" and self.path is None:
            raise InputError("params=safetensors needs a file: give params.path=FILE.safetensors")
        _check_at_least("params.seed", self.seed, 0)


@dataclass
class LossConfig:
    """The options of conf/loss: the distance between features.

    Attributes:
        name: an option of conf/loss.
        style_scale: a factor of `style_weight`, above 0.

    Raises:
        InputError: if a value is not allowed.
    """

    name: str
    style_scale: float

    def __post_init__(self) -> None:
        _check_choice("loss.name", self.name)
        _check_positive("loss.style_scale", self.style_scale)


@dataclass
class StyleLossConfig:
    """The options of conf/style_loss: what is compared between the features of the pastiche and of the painting.

    The defaults are what configurations of earlier versions, which lack this group, mean.

    Attributes:
        name: a name in `nst_exp.transfer.feature_losses.STYLE_LOSSES`.
        scale: a factor of `style_weight`, above 0.

    Raises:
        InputError: if a value is not allowed.
    """

    name: str = "gram"
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_choice("style_loss.name", self.name)
        _check_positive("style_loss.scale", self.scale)


@dataclass
class ContentLossConfig:
    """The options of conf/content_loss: what is compared between the features of the pastiche and of the photograph.

    The defaults are what configurations of earlier versions, which lack this group, mean.

    Attributes:
        name: a name in `nst_exp.transfer.feature_losses.CONTENT_LOSSES`.
        scale: a factor of `content_weight`, above 0.

    Raises:
        InputError: if a value is not allowed.
    """

    name: str = "features"
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_choice("content_loss.name", self.name)
        _check_positive("content_loss.scale", self.scale)


@dataclass
class ColourConfig:
    """The options of conf/colour: whose colours the result has.

    The fields have defaults because configurations of earlier versions lack them.

    Attributes:
        name: an option of conf/colour.
        match: how `matched` recolours the painting, `moments` or `histogram`; None for the other options.

    Raises:
        InputError: if a value is not allowed, or given to an option that does not have it.
    """

    name: str = "painting"
    match: str | None = None

    def __post_init__(self) -> None:
        _check_choice("colour.name", self.name)
        used = conf_files.option("colour", self.name)["match"] is not None
        if (self.match is not None) != used:
            need = "needs a value" if used else "has no meaning there, leave it null"
            raise InputError(f"colour.match={self.match}: with colour={self.name} it {need}")
        if used:
            _check_choice("colour.match", self.match)


@dataclass
class LayerWeightsConfig:
    """The options of conf/layer_weights: the weights of the style layers.

    Attributes:
        name: an option of conf/layer_weights.
        ratio: the weight of each style layer over that of the next shallower one, above 0; None to take the weights
            from `style_layer_weights` or `style_layer_weight`.

    Raises:
        InputError: if a value is not allowed, or given to an option that does not have it.
    """

    name: str
    ratio: float | None

    def __post_init__(self) -> None:
        _check_choice("layer_weights.name", self.name)
        used = conf_files.option("layer_weights", self.name)["ratio"] is not None
        if (self.ratio is not None) != used:
            need = "needs a value" if used else "has no meaning there, leave it null"
            raise InputError(f"layer_weights.ratio={self.ratio}: with layer_weights={self.name} it {need}")
        if self.ratio is not None:
            _check_between("layer_weights.ratio", self.ratio, 0.01, 100)


@dataclass
class SolverConfig:
    """The options of conf/solver: the optimisation method.

    Which options a method has is read from its file in conf/solver: the others are null there, and must be None.

    Attributes:
        name: an option of conf/solver.
        history_size: the number of steps that L-BFGS remembers, at least 1.
        linesearch: the line search of L-BFGS.
        first_step: the length of the first step after a start or restart, above 0; as the root mean square over
            pixels in [0, 1].
        learning_rate: the step size of Adam for pixels in [0, 1], above 0.

    Raises:
        InputError: if a value is not allowed, or given to a method that does not have the option.
    """

    name: str
    history_size: int | None
    linesearch: str | None
    first_step: float | None
    learning_rate: float | None

    def __post_init__(self) -> None:
        _check_choice("solver.name", self.name)
        uses = conf_files.option("solver", self.name)  # options that the method does not have are null there
        for option in fields(self)[1:]:
            self._check_use(option.name, used=uses[option.name] is not None)

    def _check_use(self, option: str, *, used: bool) -> None:
        value = getattr(self, option)
        if (value is not None) != used:
            need = "needs a value" if used else "has no meaning there, leave it null"
            raise InputError(f"solver.{option}={value}: with solver={self.name} it {need}")
        if option == "linesearch" and used:
            _check_choice("solver.linesearch", value)
        elif used:
            _check_positive(f"solver.{option}", value)


@dataclass
class StopConfig:
    """When to end a scale before all of its steps are done; see `nst_exp.transfer.stylize.Stop`.

    Attributes:
        improvement: the fraction by which the loss has to fall, 0 or above; 0 never ends a scale early.
        window: the number of steps within which it has to fall, at least 1.

    Raises:
        InputError: if a value is not allowed.
    """

    improvement: float
    window: int

    def __post_init__(self) -> None:
        _check_weight("stop.improvement", self.improvement)
        _check_at_least("stop.window", self.window, 1)


@dataclass
class VideoConfig:
    """The options of conf/video: which frames are painted, how they follow from one another, and what is written.

    The defaults of `steps`, `improvement`, `window`, `first_step`, `reach` and `passes` depend on `mode`.

    Attributes:
        mode: an option of conf/video, the frame policy.
        steps: the most steps of a frame that starts from another one, at least 1; None with `mode=independent`.
        improvement: as `stop.improvement`, for such a frame.
        window: as `stop.window`, for such a frame.
        first_step: as `solver.first_step`, for such a frame.
        reach: a list of distances in frames, at least 1 each: how far back the frames are that `mode=flow` propagates.
        passes: the number of passes through the video, at least 1; more than 1 only with `mode=flow`.
        max_batch_size: the most independent frames in a batch, at least 1; None for as many as fit into memory, but 1
            on a CPU.
        start: the index of the first frame, 0 or above.
        end: the index of the first frame that is left out, above `start`; None for the end of the video.
        every: keep every n-th frame, at least 1.
        estimator: the method that estimates optical flow.
        flow_cache_mb: the most memory on disk for the flow of a video at one size, in 10^6 bytes; 0 stores none.
        on_corrupt: what to do about frames that cannot be decoded, `error` or `skip`.
        write: a list of products: `video`, `frames`, `side_by_side`.
        codec: a name in `nst_exp.media.codecs.CODECS`.
        sound: whether to keep the sound.

    Raises:
        InputError: if a value is not allowed.
    """

    mode: str
    steps: int | None
    improvement: float | None
    window: int | None
    first_step: float | None
    reach: Any
    passes: int
    max_batch_size: int | None
    start: int
    end: int | None
    every: int
    estimator: str
    flow_cache_mb: float
    on_corrupt: str
    write: Any
    codec: str
    sound: bool

    def __post_init__(self) -> None:
        _check_choice("video.mode", self.mode)
        _check_at_least("video.start", self.start, 0)
        _check_at_least("video.every", self.every, 1)
        if self.end is not None and self.end <= self.start:
            raise InputError(f"video.end={self.end}: must be above video.start={self.start}")
        if self.mode != "independent":
            self._check_following()
        if not isinstance(self.reach, list) or not all(type(back) is int and back > 0 for back in self.reach):
            raise InputError(f"video.reach={self.reach}: must be a list of numbers of frames, each 1 or more")
        if self.mode == "flow" and 1 not in self.reach:
            raise InputError(f"video.reach={self.reach}: must have 1, the frame before, among its entries")
        _check_at_least("video.passes", self.passes, 1)
        if self.passes > 1 and self.mode != "flow":
            raise InputError(f"video.passes={self.passes}: more than one pass needs video=flow")
        if self.max_batch_size is not None:
            _check_at_least("video.max_batch_size", self.max_batch_size, 1)
        _check_choice("video.estimator", self.estimator)
        _check_weight("video.flow_cache_mb", self.flow_cache_mb)
        _check_choice("video.on_corrupt", self.on_corrupt)
        if not isinstance(self.write, list) or not self.write:
            raise InputError(f"video.write={self.write}: must be a list of {', '.join(CHOICES['video.write'])}")
        for what in self.write:
            _check_choice("video.write", what)
        _check_choice("video.codec", self.codec)

    def _check_following(self) -> None:
        for name in ("steps", "improvement", "window", "first_step"):
            if getattr(self, name) is None:
                raise InputError(f"video.{name}=null: video={self.mode} needs a number")
        _check_at_least("video.steps", self.steps, 1)
        _check_at_least("video.window", self.window, 1)
        _check_weight("video.improvement", self.improvement)
        _check_positive("video.first_step", self.first_step)


@dataclass
class CameraConfig:
    """The settings of a live camera.

    Attributes:
        device: FFmpeg's name of the camera; None for the first one found, or else FFmpeg's test picture.
        format: FFmpeg's name of the input format; None for that of this operating system.
        budget_ms: the time that each frame may take, in ms, above 0.
        seconds: how long to run, in s, above 0; None to run until Ctrl-C.
        port: the port of the preview page, from 0 to 65535; 0 for any free port.

    Raises:
        InputError: if a value is not allowed.
    """

    device: str | None
    format: str | None
    budget_ms: float
    seconds: float | None
    port: int

    def __post_init__(self) -> None:
        _check_positive("camera.budget_ms", self.budget_ms)
        if self.seconds is not None:
            _check_positive("camera.seconds", self.seconds)
        _check_between("camera.port", self.port, 0, 65535)


@dataclass
class TrackingConfig:
    """The options of conf/tracking: where runs are logged.

    Attributes:
        backend: an option of conf/tracking.
        store: the folder of an MLflow store that needs no server; None unless given.
        uri: the address of an MLflow server or database; None unless given. `store` and `uri` exclude each other.
        experiment: the name of the MLflow experiment, from 1 to 250 letters.
        snapshots: the number of intermediate pictures, 0 or above.

    Raises:
        InputError: if a value is not allowed, or has no effect.
    """

    backend: str
    store: str | None
    uri: str | None
    experiment: str
    snapshots: int

    def __post_init__(self) -> None:
        _check_choice("tracking.backend", self.backend)
        if self.store and self.uri:
            raise InputError(f"tracking.store={self.store} and tracking.uri={self.uri}: give only one of them")
        for name, value in (("store", self.store), ("uri", self.uri)):
            if value and (self.backend == "none" or (self.backend == "server" and name == "store")):
                raise InputError(f"tracking.{name}={value} has no effect with tracking={self.backend}")
        if not self.experiment.strip() or len(self.experiment) > _EXPERIMENT_LENGTH:
            raise InputError(f"tracking.experiment={self.experiment!r}: must have 1 to {_EXPERIMENT_LENGTH} letters")
        _check_at_least("tracking.snapshots", self.snapshots, 0)


@dataclass(kw_only=True)
class RunConfig:
    """All settings of a run.

    conf/run.yaml says what each key means. Layers may be named by their aliases. The weights of style layers are taken
    from the table `style_layer_weight`, or from the list `style_layer_weights` if that is given, or follow from
    `layer_weights`. There are two keys for a table and a list because Hydra cannot merge a list into a mapping.

    Some settings have a default because configurations of earlier versions lack them. It stands for what these versions
    did, and may differ from the default in conf/run.yaml.

    OmegaConf does not check fields annotated with `Any`: `content_layer` and `optimized_metric` are a string or a list
    of strings, `style_layers` is a list of strings, and `style_layer_weights` is a list of numbers or None.

    Raises:
        InputError: if a value is not allowed.
    """

    content: str
    style: str
    source: str
    size: int
    style_zoom: float
    aspect: str
    content_layer: Any
    content_weight: float
    style_layers: Any
    style_layer_weight: dict[str, float]
    style_layer_weights: Any
    layer_weights: LayerWeightsConfig = field(default_factory=lambda: LayerWeightsConfig("table", None))
    style_weight: float
    tv_weight: float
    range_weight: float
    temporal_weight: float
    init: str
    seed: int
    steps: int
    steps_ratio: float = 1.0
    coarsest_size: int | None
    averaging: float = 0.0
    pooling: str
    pooling_gain: float = 1.0
    padding: str
    precision: str
    network: NetworkConfig
    params: ParamsConfig
    loss: LossConfig
    solver: SolverConfig
    stop: StopConfig
    video: VideoConfig
    camera: CameraConfig
    tracking: TrackingConfig
    evaluator: str
    cache_dir: str | None
    registry: str | None
    force: bool
    optimized_metric: Any
    style_loss: StyleLossConfig = field(default_factory=StyleLossConfig)
    content_loss: ContentLossConfig = field(default_factory=ContentLossConfig)
    colour: ColourConfig = field(default_factory=ColourConfig)

    def __post_init__(self) -> None:
        _check_choice("source", self.source)
        _check_choice("aspect", self.aspect)
        _check_choice("pooling", self.pooling)
        _check_choice("padding", self.padding)
        _check_choice("precision", self.precision)
        _check_choice("evaluator", self.evaluator)
        _check_choice("init", self.init)
        for name in ("size", "coarsest_size"):
            if getattr(self, name) is not None:
                _check_between(name, getattr(self, name), 16, 8192)
        _check_between("style_zoom", self.style_zoom, 0.1, 10)
        _check_between("steps_ratio", self.steps_ratio, 0.1, 10)
        _check_between("pooling_gain", self.pooling_gain, 0.01, 100)
        if not 0 <= self.averaging < 1:
            raise InputError(f"averaging={self.averaging}: must be from 0 to below 1")
        for name, weight in self.loss_weights.items():
            _check_weight(name, weight)
        if self.content_weight == self.style_weight == 0:
            raise InputError("content_weight and style_weight are both 0: nothing to optimise")
        _check_at_least("steps", self.steps, 1)
        _check_between("seed", self.seed, 0, 2**32 - 1)
        _check_layers("content_layer", self.content_layers)
        _check_layers("style_layers", self.style_layers)
        for layer, weight in self.style_layer_weight.items():
            _check_weight(f"style_layer_weight.{layer}", weight)
        if self.style_layer_weights is not None:
            _check_layer_weights(self.style_layer_weights, self.style_layers)
            if self.layer_weights.ratio is not None:
                raise InputError(
                    f"layer_weights={self.layer_weights.name} and style_layer_weights={self.style_layer_weights}: "
                    "give only one of them (style_layer_weights=null gives no list)"
                )

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each term of the loss by its key, such as `content_weight`."""
        numbers = (setting.name for setting in fields(self) if setting.type in (float, "float"))
        return {name: getattr(self, name) for name in numbers if name.endswith("_weight")}

    @property
    def optimized_metrics(self) -> Any:
        """`optimized_metric` as a list, whether it was given as one name or several."""
        return [self.optimized_metric] if isinstance(self.optimized_metric, str) else self.optimized_metric

    @property
    def content_layers(self) -> Any:
        """`content_layer` as a list, whether it was given as one name or several."""
        return [self.content_layer] if isinstance(self.content_layer, str) else self.content_layer


def run_config(config: DictConfig) -> RunConfig:
    """Check a configuration that Hydra has composed.

    The configuration is merged into the schema once more, because Hydra does not check keys added with `+`, nor a
    configuration from the .hydra folder of a finished run. Keys of earlier versions get their present names.

    Args:
        config: the composed configuration, without Hydra's own part; interpolations in it are resolved.

    Returns:
        The configuration as nested dataclasses.

    Raises:
        InputError: if a value is not allowed.
        OmegaConfBaseException: if a key is unknown, or a value has the wrong type.

    Example:
        >>> from hydra import compose, initialize_config_dir
        >>> from hydra.core.config_store import ConfigStore
        >>> from nst_exp.conf_files import CONF
        >>> from nst_exp.config import RunConfig, run_config
        >>> ConfigStore.instance().store("schema", RunConfig)  # the types that conf/run.yaml is checked against
        >>> with initialize_config_dir(str(CONF), version_base=None):
        ...     config = run_config(compose("run", ["style_weight=0.03", "solver=adam"]))
        >>> config.style_weight, config.solver.learning_rate
        (0.03, 0.02)
    """
    plain = _with_current_names(escape_all(OmegaConf.to_container(config, resolve=True)))
    checked = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain))
    assert isinstance(checked, RunConfig)
    return checked


def current_name(key: str) -> str:
    """Return the present name of a key; keys that have not been renamed are returned unchanged.

    Example:
        >>> from nst_exp.config import current_name
        >>> current_name("judge"), current_name("style_weight")
        ('evaluator', 'style_weight')
    """
    return RENAMED.get(key, key)


def _with_current_names(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, possibly of an earlier version, with its keys under their present names."""
    renamed = {current_name(name): value for name, value in plain.items()}
    if isinstance(video := renamed.get("video"), dict):
        renamed["video"] = {
            current_name(f"video.{name}").removeprefix("video."): value for name, value in video.items()
        }
        if isinstance(write := renamed["video"].get("write"), list):
            renamed["video"]["write"] = ["video" if product == "clip" else product for product in write]
    return renamed


def _check_choice(name: str, value: Any) -> None:
    """Refuse a value that is not among `CHOICES`."""
    choices = CHOICES[name]
    if value not in choices:
        raise InputError(f"{name}={value}: choose one of {', '.join(choices)}{did_you_mean(value, choices)}")


def _check_between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InputError(f"{name}={value}: must be from {least} to {most}")


def _check_at_least(name: str, value: Any, least: int) -> None:
    if value < least:
        raise InputError(f"{name}={value}: must be at least {least}")


def _check_positive(name: str, value: Any) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name}={value}: must be a finite number above 0")


def _check_weight(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value >= 0):
        raise InputError(f"{name}={value}: must be a finite number, 0 or above")
    if value > _LARGEST:
        raise InputError(f"{name}={value}: must be at most {_LARGEST:g}")


def _check_layers(name: str, layers: Any) -> None:
    if not isinstance(layers, list) or not layers or not all(isinstance(layer, str) for layer in layers):
        raise InputError(f"{name}={layers}: must be a list of layers' names, such as [block1_conv1]")


def _check_layer_weights(weights: Any, layers: Sequence[str]) -> None:
    if not isinstance(weights, list):
        raise InputError(f"style_layer_weights={weights}: must be a list of numbers, one for each of style_layers")
    if len(weights) != len(layers):
        raise InputError(
            f"style_layer_weights={weights} has {len(weights)} entries: "
            f"style_layers has {len(layers)} ({', '.join(layers)}), give one weight each"
        )
    for layer, weight in zip(layers, weights, strict=True):
        _check_weight(f"style_layer_weights of {layer}", weight)
