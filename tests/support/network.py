"""A network of its own for a test: a hub and sites, each a network namespace, with cables that can be cut.

The hub holds the server's side behind a bridge; every site has one cable to it. All addresses and ports are
inside the namespaces, so nothing is reachable from elsewhere and two tests at once cannot collide.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HUB_ADDRESS = "10.77.0.1"
_PREFIX = "motley-test"
_NAMESPACES = Path("/run/netns")
_TOOLS = {"ip": "iproute2", "tc": "iproute2", "iptables": "iptables", "nsenter": "util-linux"}


def lacking() -> str:
    """Return why there can be no network here, or nothing if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [
        f"{tool} (Debian package {package})" for tool, package in _TOOLS.items() if not shutil.which(tool)
    ]
    return f"missing: {', '.join(missing)}" if missing else ""


class Network:
    """A hub and sites.

    Parameters
    ----------
    sites
        Their names; each must be a valid name of a network interface.
    """

    def __init__(self, sites: Sequence[str]) -> None:
        self._mark = f"{_PREFIX}-{os.getpid()}-{secrets.token_hex(3)}"
        self._addresses = {site: f"10.77.0.{11 + index}" for index, site in enumerate(sites)}

    def inside(self, site: str | None = None) -> list[str]:
        """Return what a command begins with to run at a site; None: at the hub. It keeps its process id."""
        return ["nsenter", f"--net={_NAMESPACES / self._namespace(site)}", "--"]

    # --- making --------------------------------------------------------------------------------

    def make(self) -> None:
        """Make the namespaces and the cables."""
        _sweep()
        _call(f"ip netns add {self._namespace(None)}")
        self._hub("link set lo up", "link add name bridge type bridge", "link set bridge up")
        self._hub(f"addr add {HUB_ADDRESS}/24 dev bridge")
        for site, address in self._addresses.items():
            self._connect(site, address)

    def remove(self) -> None:
        """Remove all of it; processes that are still inside keep their namespace until they end."""
        for site in [*self._addresses, None]:
            if (_NAMESPACES / self._namespace(site)).exists():
                _call(f"ip netns del {self._namespace(site)}")

    # --- faults --------------------------------------------------------------------------------

    def cut(self, site: str) -> None:
        """Pull a site's cable: no packet passes, and nobody is told."""
        self._hub(f"link set dev {site} down")

    def mend(self, site: str) -> None:
        """Put the cable back."""
        self._hub(f"link set dev {site} up")

    def throttle(self, site: str, kilobits: int) -> None:
        """Let this many kilobits a second pass in each direction."""
        shape = f"root tbf rate {kilobits}kbit burst 8kb latency 400ms"
        _call(f"tc -n {self._namespace(None)} qdisc replace dev {site} {shape}")
        _call(f"tc -n {self._namespace(site)} qdisc replace dev cable {shape}")

    def lose(self, site: str, share: float) -> None:
        """Lose a share of the packets in each direction, at random."""
        drop = f"-m statistic --mode random --probability {share} -j DROP"
        self._call_inside(site, f"iptables -w -A INPUT -i cable {drop}")
        self._call_inside(None, f"iptables -w -A INPUT -s {self._addresses[site]} {drop}")

    def repair(self, site: str) -> None:
        """Take back ``throttle`` and ``lose``."""
        for namespace, device in ((None, site), (site, "cable")):
            with contextlib.suppress(subprocess.CalledProcessError):  # there was none
                _call(f"tc -n {self._namespace(namespace)} qdisc del dev {device} root")
        self._call_inside(site, "iptables -w -F INPUT")
        self._call_inside(None, "iptables -w -F INPUT")

    # --- parts ---------------------------------------------------------------------------------

    def _namespace(self, site: str | None) -> str:
        return f"{self._mark}-{site or 'hub'}"

    def _connect(self, site: str, address: str) -> None:
        namespace = self._namespace(site)
        _call(f"ip netns add {namespace}")
        self._hub(f"link add name {site} type veth peer name cable netns {namespace}")
        self._hub(f"link set dev {site} master bridge", f"link set dev {site} up")
        for command in ("link set lo up", f"addr add {address}/24 dev cable", "link set cable up"):
            _call(f"ip -n {namespace} {command}")

    def _hub(self, *commands: str) -> None:
        for command in commands:
            _call(f"ip -n {self._namespace(None)} {command}")

    def _call_inside(self, site: str | None, command: str) -> None:
        _call(" ".join([*self.inside(site), command]))


@contextmanager
def network(sites: Sequence[str]) -> Iterator[Network]:
    """Provide a network and remove it in the end."""
    made = Network(sites)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _sweep() -> None:
    """Remove what a test left that was killed: its process's number is in the names."""
    for left in _NAMESPACES.glob(f"{_PREFIX}-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            subprocess.run(["ip", "netns", "del", left.name], capture_output=True, check=False)


def _call(command: str) -> None:
    """Run a command; what it complains about is in the error."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, f"{command}: {done.stderr.strip()}")
