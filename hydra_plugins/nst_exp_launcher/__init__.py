"""Where Hydra looks for plugins: it takes launchers from below `hydra_plugins` only."""
