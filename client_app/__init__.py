"""A node: read settings → load its data → act on one message → reply."""
