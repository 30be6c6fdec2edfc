"""systemd's unit files, read far enough to check and run what they say."""

import re
import shlex
from pathlib import Path

SYSTEMD = Path(__file__).parents[2] / "systemd"


class Unit:
    """A unit file; a template's for an instance."""

    def __init__(self, name, instance="hospital-a"):
        text = (SYSTEMD / f"{name}.service").read_text().replace("%i", instance)
        lines = (line for line in text.replace("\\\n", " ").splitlines() if line and line[0] not in "#[")
        self._settings = [tuple(line.split("=", 1)) for line in lines]

    def all(self, key):
        """Return all values of a setting."""
        return [value for name, value in self._settings if name == key]

    def get(self, key):
        """Return a setting that is there once."""
        (value,) = self.all(key)
        return value

    def credentials(self):
        """Return where credentials come from, by name."""
        return dict(value.split(":", 1) for value in self.all("LoadCredential"))

    def environment(self):
        """Return the variables that the unit itself sets."""
        return dict(word.split("=", 1) for value in self.all("Environment") for word in shlex.split(value))

    def command(self, variables):
        """Return ExecStart's words with variables filled in; one that is missing is an error."""
        filled = re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], self.get("ExecStart"))
        return shlex.split(filled)
