"""The mathematics of style transfer: losses, objective, solvers, coarse to fine."""
