"""Optical flow between frames, and what a frame takes over from earlier ones."""
