"""The coordinator: read settings → build → run rounds → save → report."""
