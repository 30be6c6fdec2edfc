"""A SuperLink and SuperNodes with TLS and keys, as real processes."""

import sys
from contextlib import contextmanager
from pathlib import Path

from deploy import certificates, registration
from tests.support.processes import BIN, Deployment, free_port, is_open, wait_for

JOINED = "SuperNode ID:"
NAMES = "superlink,localhost,127.0.0.1"


def make_certificates(folder, *flags, nodes="hospital-a,hospital-b"):
    """Make a set; return its folder."""
    certificates.main(["create", str(folder), "--server-names", NAMES, "--nodes", nodes, *flags])
    return Path(folder)


class SecuredDeployment(Deployment):
    """A federation whose SuperLink accepts registered keys only."""

    def __init__(self, folder, made):
        super().__init__(folder)
        self.made = made
        self._environment["FLWR_LOG_LEVEL"] = "DEBUG"
        self._starts = 0
        self._superlink_log = ""
        self._port = 0

    @property
    def control(self):
        """The SuperLink's Control API."""
        return f"localhost:{self.http_port}"

    def start_superlink(self, *flags):
        """Start the SuperLink with what is in its folder now."""
        own = self.made / "superlink"
        command = (
            f"{BIN / 'flower-superlink'} --isolation process --host 127.0.0.1 --port {self.http_port} "
            f"--fleet-api-address 127.0.0.1:{self.fleet_port} --database {self.folder / 'superlink.db'} "
            f"--ssl-ca-certfile {own / 'ca.pem'} --ssl-certfile {own / 'server.pem'} "
            f"--ssl-keyfile {own / 'server.key'} --enable-supernode-auth "
            f"--superexec-auth-secret-file {own / 'executor.secret'}"
        )
        self._superlink_log = self._log_name("superlink")
        process = self.start(self._superlink_log, [*command.split(), *flags])
        wait_for(lambda: is_open(self.http_port) and is_open(self.fleet_port), 60, "the SuperLink")
        return process

    def start_supernode(self, node, *flags, trusted=None):
        """Start a SuperNode with what is in a node's folder now; return it and its log's name."""
        own = self.made / "nodes" / node
        self._port = free_port()
        command = (
            f"{sys.executable} -m deploy.supernode --superlink localhost:{self.fleet_port} "
            f"--port {self._port} --isolation process --root-certificates {trusted or own / 'ca.pem'} "
            f"--auth-supernode-private-key {own / 'node.key'} "
            f"--superexec-auth-secret-file {own / 'executor.secret'}"
        )
        name = self._log_name(node)
        return self.start(name, [*command.split(), *flags]), name

    def start_launchers(self, node):
        """Start the launchers of ServerApps and of the ClientApps of the SuperNode that was started last."""
        at_link = (
            f"{BIN / 'flower-superexec'} --runtime-api-address {self.control} "
            f"--root-certificates {self.made / 'superlink/ca.pem'} "
            f"--superexec-auth-secret-file {self.made / 'superlink/executor.secret'}"
        )
        at_node = (
            f"{sys.executable} -m deploy.warm_executor "
            f"--insecure --runtime-api-address 127.0.0.1:{self._port} "
            f"--superexec-auth-secret-file {self.made / 'nodes' / node / 'executor.secret'} "
            f"--preload= --alive-file {self.folder / 'alive'}"
        )
        self.start("serverapp", at_link.split())
        self.start("clientapp", at_node.split())
        wait_for((self.folder / "alive").exists, 60, "an answer to the ClientApps' launcher")
        self.wait_for_line(self._superlink_log, "acquire-task")

    def register(self, *files, flags=()):
        """Run the command that registers; it must end well."""
        trusted = str(self.made / "authority" / "ca.pem")
        registration.main(
            ["--superlink", self.control, "--root-certificates", trusted, *flags, *map(str, files)]
        )

    def public_key(self, node):
        """Return the file of a node's public key."""
        return self.made / "nodes" / node / "node.pub"

    def logs(self):
        """Return what all processes wrote."""
        return b"".join(file.read_bytes() for file in self.folder.glob("*.log"))

    def wait_for_line(self, name, text, count=1):
        """Wait until a process has written a text so many times."""
        wait_for(lambda: self.log(name).count(text) >= count, 90, f"{text!r} in the log of {name}")

    def join(self, node):
        """Start a registered SuperNode and wait until it is in; return it and its id."""
        process, log = self.start_supernode(node)
        self.wait_for_line(log, JOINED)
        return process, self.log(log).split(JOINED)[1].split()[0]

    def wait_for_request(self, *nodes):
        """Wait until nodes, by their ids, have asked the SuperLink that was started last for messages."""
        for node in nodes:
            self.wait_for_line(self._superlink_log, f"[Fleet.PullMessages] node_id={node}")

    def end(self, process):
        """End a process in order."""
        process.terminate()
        process.wait(20)

    def stop(self):
        """Kill what is left: in order, a node would look for its SuperLink until it is killed."""
        for process in self._processes:
            if process.poll() is None:
                self.kill(process)

    def _log_name(self, name):
        self._starts += 1
        return f"{name}-{self._starts}"


@contextmanager
def secured(folder, made):
    """Provide a secured deployment and stop it in the end."""
    flower = SecuredDeployment(folder, made)
    try:
        yield flower
    finally:
        flower.stop()
