"""Networks as feature extractors, one module per architecture.

`ARCHITECTURES` is the registry; its keys are the values of `network.name`.
"""

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


def get_network(
    name: str, *, pooling: str, padding: str, precision: str, smoothing: str | None = None, pooling_gain: float = 1.0
) -> Network:
    """Return a network with the given options.

    The network is hashable, so that it can be a static argument of `jax.jit`.

    Args:
        name: A key of `ARCHITECTURES`.
        pooling: Kind of those pools that an architecture does not fix, `average`, `max` or `l2`.
        padding: Border of the first convolution, `zeros` or `replicate`.
        precision: Precision of convolutions, `float32`, `tf32` or `bfloat16`.
        smoothing: Smoothing of the features: `softmax`, or None for no smoothing.
        pooling_gain: Factor of the output of these pools, above 0.

    Raises:
        InputError: If there is no network of that name.

    Example:
        >>> network = get_network("vgg19", pooling="average", padding="zeros", precision="float32")
        >>> network.canonical_layer("relu4_2")
        'block4_conv2'
        >>> network.truncated(["block2_conv1"])
        ('block1_conv1', 'block1_conv2', 'block2_conv1')
        >>> network.smallest_side(["block4_conv2"])
        8
    """
    if name not in ARCHITECTURES:
        raise InputError(
            f"network.name={name!r}: choose one of {', '.join(ARCHITECTURES)}{did_you_mean(name, ARCHITECTURES)}"
        )
    network = ARCHITECTURES[name]
    return network.configured(
        pooling=pooling, padding=padding, precision=precision, smoothing=smoothing, pooling_gain=pooling_gain
    )


__all__ = ["ARCHITECTURES", "Network", "get_network"]
