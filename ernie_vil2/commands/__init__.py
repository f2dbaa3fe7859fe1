"""The command lines: `tools/<name>.py` calls `main` of the module of its name."""
