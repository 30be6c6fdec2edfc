"""A federation in one program: the same apps, messages and bytes as over Flower, without SuperLink or Ray.

``simulation.run.simulate`` runs one. The grid is in the server's process; clients run there too, or
in worker processes.
"""
