"""Networks as feature extractors: one file an architecture, chosen by name."""

from nst_exp.errors import InputError
from nst_exp.networks.alexnet import ALEXNET
from nst_exp.networks.googlenet import GOOGLENET
from nst_exp.networks.inception_v4 import INCEPTION_V4
from nst_exp.networks.network import Network
from nst_exp.networks.resnet import RESNET50, RESNET101
from nst_exp.networks.vgg import TINY, VGG16, VGG19
from nst_exp.suggestions import did_you_mean

ARCHITECTURES: dict[str, Network] = {
    "vgg16": VGG16,
    "vgg19": VGG19,
    "alexnet": ALEXNET,
    "resnet50": RESNET50,
    "resnet101": RESNET101,
    "googlenet": GOOGLENET,
    "inception_v4": INCEPTION_V4,
    "tiny": TINY,
}


def get_network(name: str, *, pooling: str, padding: str, precision: str, smoothing: str | None = None) -> Network:
    """The network `name` with its static options; hashable, so that it can be a static argument of `jit`.

    Args:
        name: one of `ARCHITECTURES`.
        pooling: `average` or `max`.
        padding: of the first layer, `zeros` or `replicate`.
        precision: of convolutions, `float32`, `tf32` or `bfloat16`.
        smoothing: of the features, `softmax` or None.

    Raises:
        InputError: if there is no network of that name.
    """
    if name not in ARCHITECTURES:
        raise InputError(
            f"network.name={name!r}: choose one of {', '.join(ARCHITECTURES)}{did_you_mean(name, ARCHITECTURES)}"
        )
    network = ARCHITECTURES[name]
    return network.configured(pooling=pooling, padding=padding, precision=precision, smoothing=smoothing)


__all__ = ["ARCHITECTURES", "Network", "get_network"]
