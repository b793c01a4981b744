"""What a user types: run, compare, reproduce and upload, and how a command starts and ends."""
