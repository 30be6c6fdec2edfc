"""Numbers recorded from the official code."""

import json
from pathlib import Path

RECORDED = json.loads(Path(__file__).with_name("reference.json").read_text())
