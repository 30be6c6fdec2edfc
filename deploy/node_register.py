"""The SuperLink's list of nodes, read and changed through its Control API."""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

_PAUSE = 1.0
_GATEWAY_ERRORS = frozenset({502, 503, 504})
Answer = TypeVar("Answer")


class SuperLinkError(RuntimeError):
    """The SuperLink cannot be reached, is not trusted, or refuses a request."""


@dataclass(frozen=True)
class NamedKey:
    """A SuperNode's public key.

    Attributes
    ----------
    name
        The node's name at the SuperLink.
    public_key
        The key as Flower sends it (PEM).
    """

    name: str
    public_key: bytes


class NodeRegister:
    """The SuperLink's list of nodes.

    Parameters
    ----------
    address
        HOST:PORT of the SuperLink's Control API.
    certificates
        PEM of the CA that signed its certificate; None: plain HTTP.
    wait
        Seconds to wait for the SuperLink to answer.
    """

    def __init__(self, address: str, certificates: bytes | None, wait: float = 0) -> None:
        self._address = address
        self._until = time.monotonic() + wait
        self._client: ControlHttpClient = ControlHttpClient.from_server_address(
            address,
            certificates is None,
            certificates,
            [RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def close(self) -> None:
        """Close the connection; a SuperLink that shuts down would wait for it."""
        self._client.close()

    def nodes(self) -> list[NodeInfo]:
        """Return all nodes that were ever registered, in the order of their registration."""
        answer = self._ask(lambda: self._client.ListNodes(ListNodesRequest()))
        return sorted(answer.nodes_info, key=lambda node: str(node.registered_at))

    def register(self, node: NamedKey) -> str:
        """Register a node unless it is registered already; return a line for the user.

        Raises
        ------
        SuperLinkError
            If the SuperLink refuses.
        """
        known = self._find(node)
        if known is None:
            request = RegisterNodeRequest(public_key=node.public_key, name=node.name)
            answer = self._ask(lambda: self._client.RegisterNode(request))
            return f"{node.name}: registered as node {answer.node_id}"
        if known.status == NodeStatus.UNREGISTERED:
            raise SuperLinkError(
                f"{node.name}: its key was unregistered and is not accepted again; make a new one"
            )
        return f"{node.name}: is registered already as node {known.node_id} ({known.status})"

    def unregister(self, node: NamedKey) -> str:
        """Unregister a node unless it is not registered; return a line for the user."""
        known = self._find(node)
        if known is None or known.status == NodeStatus.UNREGISTERED:
            return f"{node.name}: is not registered"
        self._ask(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=known.node_id)))
        return f"{node.name}: node {known.node_id} is no longer registered"

    def _find(self, node: NamedKey) -> NodeInfo | None:
        return next((known for known in self.nodes() if known.public_key == node.public_key), None)

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        while True:
            try:
                return request()
            except httpx.HTTPError as error:
                if not _is_transient(error) or time.monotonic() > self._until:
                    raise SuperLinkError(f"SuperLink {self._address}: {_reason(error)}") from error
            time.sleep(_PAUSE)


def _is_transient(error: httpx.HTTPError) -> bool:
    """Tell whether a later attempt may succeed."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _GATEWAY_ERRORS
    return isinstance(error, httpx.TransportError) and _certificate_error(error) is None


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        said = FlowerError.from_json(error.response.text)
        return f"it refuses: {said.message}" if said else f"HTTP status {error.response.status_code}"
    if (invalid := _certificate_error(error)) is not None:
        return f"its certificate is not trusted: {invalid.verify_message}"
    return f"no answer: {error}"


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None
