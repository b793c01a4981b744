"""Reading and writing of images, videos and cameras.

The package never imports JAX, so that invalid input is refused before JAX is loaded.
"""
