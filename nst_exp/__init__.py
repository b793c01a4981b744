"""nst_exp: a hyperparameter experiment pipeline for neural style transfer."""

__version__ = "0.1.0"
