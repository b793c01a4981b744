"""Measures of finished pictures and videos, taken by an evaluator: a network that is the same for every run."""
