"""What a run leaves behind: its folder, its identity, the registry of finished runs, MLflow."""
