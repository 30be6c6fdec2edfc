"""Prints the installed packages; run in a container, without network."""

import json
import sys
from importlib.metadata import distributions

import flwr
import torch
import torchvision

import deploy

assert all((flwr, torch, torchvision, deploy))
sys.stdout.write(
    json.dumps({found.metadata["Name"].lower().replace("_", "-"): found.version for found in distributions()})
)
