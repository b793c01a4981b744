"""Images, video and camera in and out. Never imports JAX: bad input is refused before JAX is loaded."""
