"""A sweep of runs: Hydra's launcher and callback, the sweep's folder and its resuming, what a search optimises."""
