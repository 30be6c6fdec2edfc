"""TLS between a client and a server with given files: Python's (OpenSSL) and gRPC's (BoringSSL)."""

import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc


def python_trusts(authority, superlink, name):
    """Tell whether a client that trusts a CA's file accepts a SuperLink's folder under a name; no socket."""
    client = ssl.create_default_context(cafile=authority)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(superlink / "server.pem", superlink / "server.key")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in tuple(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
            ends.remove(end)
    return not ends


@contextmanager
def grpc_server(superlink):
    """Serve nothing over gRPC, with the files that a SuperLink is given; provide the port."""
    files = [(superlink / name).read_bytes() for name in ("ca.pem", "server.pem", "server.key")]
    server = grpc.server(ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials([(files[2], files[1])], root_certificates=files[0])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def grpc_trusts(authority, port, host="localhost"):
    """Tell whether a gRPC client that trusts a CA's file connects."""
    credentials = grpc.ssl_channel_credentials(authority.read_bytes())
    with grpc.secure_channel(f"{host}:{port}", credentials) as channel:
        try:
            channel.unary_unary("/nothing")(b"", timeout=10)
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.UNIMPLEMENTED
    return True
