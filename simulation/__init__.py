"""A federation on this machine alone: apps, messages and bytes as through Flower, without SuperLink or Ray.

``simulation.run.simulate`` runs one. The grid is in the server's process; the clients' work is done there as
well, or by worker processes.
"""
