"""The records of runs: their folders and identities, the registry of finished runs, and MLflow."""
