"""Your own code: it is sent to every node and can be named in the settings, see docs/your-own.md.

The files are examples, one of each kind; change them, or add your own.
"""
