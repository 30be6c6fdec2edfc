"""A federation inside one process: the same apps, messages and bytes as through Flower."""
