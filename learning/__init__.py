"""The learning engine: one training loop, one evaluation loop, and what they are made of."""
