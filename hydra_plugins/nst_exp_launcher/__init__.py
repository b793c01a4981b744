"""The place of our launcher: Hydra finds plugins only below `hydra_plugins`."""
