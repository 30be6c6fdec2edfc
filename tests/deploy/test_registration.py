"""Registering SuperNodes' keys at a real SuperLink."""

import shutil
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deploy import registration
from tests.deploy.secured import make_certificates, secured
from tests.support.processes import free_port


def run(*arguments):
    registration.main(list(map(str, arguments)))


def failure(capsys, code, *arguments):
    """Run a command that must fail; return its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    said = capsys.readouterr().err
    assert left.value.code == code
    assert said.count("\n") == 1
    return said


@pytest.fixture(scope="module")
def flower(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registration")
    with secured(folder / "flower", make_certificates(folder / "made", nodes="a,b,c,d,e")) as flower:
        flower.start_superlink()
        yield flower


@pytest.fixture
def made(tmp_path):
    return make_certificates(tmp_path / "made", nodes="a")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_key_is_registered_once_under_its_nodes_name(flower, capsys):
    flower.register(flower.public_key("a"), flower.public_key("b"))
    first = capsys.readouterr().out.splitlines()[-2:]
    flower.register(flower.public_key("b"), flower.public_key("a"))
    again = capsys.readouterr().out.splitlines()
    assert ["registered as node" in line for line in first] == [True, True]
    assert ["is registered already as node" in line for line in again] == [True, True]
    assert {line.split()[-1] for line in first} == {line.split()[-2] for line in again}
    flower.register()
    listed = capsys.readouterr().out.splitlines()
    assert {"a", "b"} <= {line.split()[0] for line in listed}
    assert all(line.split()[1] == "registered" for line in listed)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_flowers_own_command_sees_the_node(flower, capsys):
    flower.register(flower.public_key("c"))
    node = capsys.readouterr().out.split()[-1]
    trusted = flower.made / "authority/ca.pem"
    connection = f'[superlink.test]\naddress = "{flower.control}"\nroot-certificates = "{trusted}"\n'
    (flower.folder / "flwr-home" / "config.toml").write_text(connection)
    assert node in flower.command(["flwr", "supernode", "list", "test", "--format", "json"], 60).stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_unregistered_key_never_comes_back(flower, capsys):
    flower.register(flower.public_key("d"))
    flower.register(flower.public_key("d"), flags=["--unregister"])
    assert "is no longer registered" in capsys.readouterr().out
    flower.register(flower.public_key("d"), flags=["--unregister"])
    assert "is not registered" in capsys.readouterr().out
    trusted = flower.made / "authority/ca.pem"
    asked = ("--superlink", flower.control, "--root-certificates", trusted, flower.public_key("d"))
    assert "d: its key was unregistered" in failure(capsys, 1, *asked)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_file_that_a_site_sent_is_called_by_its_own_name(flower, capsys, tmp_path):
    shutil.copy(flower.public_key("e"), tmp_path / "hospital-e.pub")
    flower.register(tmp_path / "hospital-e.pub")
    assert "hospital-e: registered" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_superlink_of_another_authority_is_not_trusted_and_is_not_waited_for(flower, made, capsys):
    asked = ("--superlink", flower.control, "--root-certificates", made / "authority/ca.pem", "--wait", 60)
    assert "its certificate is not trusted" in failure(capsys, 1, *asked)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_waits_for_a_superlink_that_is_starting(tmp_path, made):
    with secured(tmp_path / "flower", made) as flower:
        asked = (
            f"--superlink {flower.control} --root-certificates {made / 'authority/ca.pem'} --wait 60".split()
        )
        command = [sys.executable, "-m", "deploy.registration", *asked, flower.public_key("a")]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        flower.start_superlink()
        assert "a: registered as node" in waiting.communicate(timeout=60)[0]
        assert waiting.returncode == 0


class Refusing(BaseHTTPRequestHandler):
    """Answers as a SuperLink that wants an account, and a proxy whose SuperLink is away, would."""

    answers = ()

    def do_POST(self):
        status, body = self.answers.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def refusing(made, answers, host="127.0.0.1"):
    """Serve answers with TLS; provide the flags that lead there."""
    Refusing.answers = answers
    server = HTTPServer((host, 0), Refusing)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "superlink/server.pem", made / "superlink/server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield "--superlink", f"{host}:{server.server_port}", "--root-certificates", made / "authority/ca.pem"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_refusal_is_told_in_the_superlinks_words_and_not_repeated(made, capsys):
    with refusing(made, [(401, b'{"code": 1, "detail": "No account."}')]) as asked:
        assert "it refuses: No account." in failure(capsys, 1, *asked, "--wait", 9)


def test_a_proxy_whose_superlink_is_away_is_asked_again(made):
    answers = [(503, b""), (200, b"")]
    with refusing(made, answers) as asked:
        run(*asked, "--wait", 9)
    assert answers == []


def test_a_name_that_the_certificate_does_not_hold_for_is_told(made, capsys):
    with refusing(made, [], "127.0.0.2") as asked:
        assert "127.0.0.2" in failure(capsys, 1, *asked, "--wait", 9)


def test_nobody_there_is_told(made, capsys):
    asked = ("--superlink", f"127.0.0.1:{free_port()}", "--root-certificates", made / "authority/ca.pem")
    assert "no answer" in failure(capsys, 1, *asked)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--superlink localhost --root-certificates {made}/authority/ca.pem", "--superlink: 'localhost'"),
        ("--superlink :8000 --root-certificates {made}/authority/ca.pem", "--superlink: ':8000'"),
        ("--superlink localhost:8000", "--root-certificates"),
        ("--superlink localhost:8000 --insecure --root-certificates x", "not allowed with"),
        ("--superlink localhost:8000 --root-certificates nowhere.pem", "nowhere.pem: No such file"),
        (
            "--superlink localhost:8000 --root-certificates {made}/authority/ca.key",
            "ca.key: it is not a certificate",
        ),
        ("--superlink localhost:8000 --insecure --wait nan", "--wait: 'nan'"),
        ("--superlink localhost:8000 --insecure --wait -1", "--wait: '-1'"),
        ("--superlink localhost:8000 --insecure --unregister", "--unregister: name the public keys"),
        ("--superlink localhost:8000 --insecure nowhere.pub", "nowhere.pub: No such file"),
        ("--superlink localhost:8000 --insecure {made}", "Is a directory"),
        ("--superlink localhost:8000 --insecure {made}/nodes/a/node.key", "node.key: it is not a public key"),
        ("--superlink localhost:8000 --insecure {made}/../rsa.pub", "only keys on a NIST curve"),
        ("--superlink localhost:8000 --insecure {made}/../-x.pub", "node '-x'"),
    ],
)
def test_bad_input_is_refused_in_one_line_that_names_it(made, capsys, arguments, said):
    ed25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMsQCD5GqPqrOWRi5Eu6VJsmqDuY8ZdKDhBWLr5ZGvZQ"
    (made.parent / "rsa.pub").write_text(ed25519)
    shutil.copy(made / "nodes/a/node.pub", made.parent / "-x.pub")
    assert said in failure(capsys, 2, *arguments.format(made=made).split())
