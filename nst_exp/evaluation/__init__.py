"""Measures of a finished picture or video, by a network that is always the same."""
