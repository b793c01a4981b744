"""Runs of images, videos and cameras, from checked settings to a result."""
