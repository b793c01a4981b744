"""Sweeps of runs: Hydra's callback and launcher, the sweep's folder, how it is resumed and closed, and searches."""
