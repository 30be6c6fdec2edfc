"""The launcher's client for a SuperNode's Runtime API."""

import ssl

import httpx
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

_TIMEOUT = 30.0
_SIGNED = frozenset({"/flwr.proto.Runtime/AcquireTask"})


class RuntimeApi:
    """The interface through which a SuperNode gives tasks to its launcher.

    Parameters
    ----------
    address
        HOST:PORT.
    certificates
        PEM of the CA that signed the API's certificate; None: plain HTTP.
    secret
        Secret that requests for tasks are signed with; None: they are not signed.
    """

    def __init__(self, address: str, certificates: bytes | None, secret: bytes | None) -> None:
        self.address = address
        self.certificates = certificates
        signed: list[ProtobufClientInterceptor] = (
            [SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=_SIGNED)] if secret else []
        )
        self.client = self._connect("SuperExec", signed)

    @property
    def insecure(self) -> bool:
        """Whether it is plain HTTP."""
        return self.certificates is None

    def for_task(self, token: str) -> RuntimeHttpClient:
        """Connect with a task's token, as its ClientApp does."""
        return self._connect("flwr-clientapp", [RuntimeTokenHttpInterceptor(token)])

    def check_reachable(self) -> None:
        """Check that the SuperNode answers.

        Raises
        ------
        httpx.ConnectError
            If nothing listens at the address.
        httpx.HTTPError
            If there is no answer for another reason.
        """
        if self.certificates is None:
            httpx.get(f"http://{self.address}/health", timeout=_TIMEOUT)
        else:
            trusted = ssl.create_default_context(cadata=self.certificates.decode())
            httpx.get(f"https://{self.address}/health", timeout=_TIMEOUT, verify=trusted)

    def _connect(self, component: str, interceptors: list[ProtobufClientInterceptor]) -> RuntimeHttpClient:
        version = RuntimeVersionHttpInterceptor(component_name=component)
        client: RuntimeHttpClient = RuntimeHttpClient.from_server_address(
            self.address, self.insecure, self.certificates, [version, *interceptors]
        )
        return client
