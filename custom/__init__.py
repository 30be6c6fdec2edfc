"""Your own code: what lies here travels to every node and is named in the settings, see docs/your-own.md.

The files here are examples, one of each kind; change them, or put yours beside them.
"""
