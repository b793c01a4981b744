"""The mathematics of style transfer: losses, the objective, solvers, and the coarse-to-fine schedule."""
