"""What tests and benchmarks share: a federation inside one process."""
