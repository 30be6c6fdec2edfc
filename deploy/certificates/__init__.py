"""Certificates, keys and secrets of a federation: a CA of its own, and what it and each party hold."""

from deploy.certificates.command import main, parser

__all__ = ["main", "parser"]
