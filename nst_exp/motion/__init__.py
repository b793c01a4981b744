"""Optical flow between frames, and propagation of painted frames along it."""
