"""The package of the launcher plugin; Hydra searches for plugins only in `hydra_plugins`."""
