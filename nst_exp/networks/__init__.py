"""Networks as feature extractors: one file an architecture, chosen by name."""

from nst_exp.errors import InputError
from nst_exp.networks.vgg import TINY, VGG16, Vgg

ARCHITECTURES: dict[str, Vgg] = {network.name: network for network in (VGG16, TINY)}


def get_network(name: str, *, pooling: str, padding: str, precision: str) -> Vgg:
    """The network `name` with its static options; hashable, so that it can be a static argument of `jit`.

    Args:
        name: one of `ARCHITECTURES`.
        pooling: `average` or `max`.
        padding: of the first layer, `zeros` or `replicate`.
        precision: of convolutions, `float32`, `tf32` or `bfloat16`.

    Raises:
        InputError: if there is no network of that name.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"network.name={name!r}: choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name].configured(pooling=pooling, padding=padding, precision=precision)


__all__ = ["ARCHITECTURES", "Vgg", "get_network"]
