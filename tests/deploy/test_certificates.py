"""The command that makes certificates and keys: what it makes and refuses, and that nothing is half done."""

import fcntl
import ipaddress
import os
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from tests.deploy.handshakes import grpc_server, grpc_trusts, python_trusts
from tests.deploy.secured import make_certificates
from tests.deploy.sets import certificate, contents, extension, modes, refusal, run

FILES = {
    "authority": 0o700,
    "authority/ca.key": 0o600,
    "authority/ca.pem": 0o644,
    "nodes": 0o700,
    "nodes/hospital-a": 0o700,
    "nodes/hospital-a/ca.pem": 0o644,
    "nodes/hospital-a/executor.secret": 0o600,
    "nodes/hospital-a/node.key": 0o600,
    "nodes/hospital-a/node.pub": 0o644,
    "superlink": 0o700,
    "superlink/ca.pem": 0o644,
    "superlink/executor.secret": 0o600,
    "superlink/server.key": 0o600,
    "superlink/server.pem": 0o644,
}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
def made(tmp_path):
    return make_certificates(tmp_path / "made", nodes="hospital-a")


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_files_and_their_modes_are_the_same_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        made = make_certificates(tmp_path / "made", nodes="hospital-a")
    finally:
        os.umask(before)
    assert modes(made) == FILES
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_the_authority_may_sign_certificates_but_no_other_authority(made):
    ca = certificate(made / "authority/ca.pem")
    constraints, use = extension(ca, x509.BasicConstraints), extension(ca, x509.KeyUsage)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert use.critical
    assert use.value.key_cert_sign
    assert not use.value.digital_signature
    assert extension(ca, x509.SubjectKeyIdentifier).value.digest


def test_the_servers_certificate_says_its_names_and_use_and_who_signed_it(tmp_path):
    made = tmp_path / "made"
    run("create", made, "--server-names", "SuperLink.Example.org, 10.0.0.7,2001:DB8::0:1", "--days", 7)
    ca, server = certificate(made / "authority/ca.pem"), certificate(made / "superlink/server.pem")
    names = extension(server, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["superlink.example.org"]
    assert set(names.get_values_for_type(x509.IPAddress)) == {
        ipaddress.ip_address("10.0.0.7"),
        ipaddress.ip_address("2001:db8::1"),
    }
    assert list(extension(server, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not extension(server, x509.BasicConstraints).value.ca
    signer = extension(ca, x509.SubjectKeyIdentifier).value.digest
    assert extension(server, x509.AuthorityKeyIdentifier).value.key_identifier == signer
    assert timedelta(days=6) < server.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=7)


def test_the_servers_certificate_passes_a_strict_verifier(made):
    policy = PolicyBuilder().store(Store([certificate(made / "authority/ca.pem")]))
    verifier = policy.build_server_verifier(x509.DNSName("superlink"))
    assert len(verifier.verify(certificate(made / "superlink/server.pem"), [])) == 2


def test_no_certificate_names_a_node(made):
    for file in made.rglob("*.pem"):
        assert b"hospital" not in certificate(file).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("name", ["superlink", "localhost", "127.0.0.1"])
def test_python_trusts_the_server_under_each_of_its_names_and_no_other(made, tmp_path, name):
    other = make_certificates(tmp_path / "other")
    assert python_trusts(made / "nodes/hospital-a/ca.pem", made / "superlink", name)
    assert not python_trusts(made / "nodes/hospital-a/ca.pem", made / "superlink", "elsewhere")
    assert not python_trusts(other / "authority/ca.pem", made / "superlink", name)


def test_grpc_trusts_the_server_by_its_own_authority_only(made, tmp_path):
    other = make_certificates(tmp_path / "other")
    with grpc_server(made / "superlink") as port:
        assert grpc_trusts(made / "nodes/hospital-a/ca.pem", port)
        assert grpc_trusts(made / "nodes/hospital-a/ca.pem", port, "127.0.0.1")
        assert not grpc_trusts(other / "authority/ca.pem", port)


def test_a_nodes_key_is_on_p384_in_opensshs_format(made):
    node = made / "nodes/hospital-a"
    private = serialization.load_ssh_private_key((node / "node.key").read_bytes(), None)
    public = serialization.load_ssh_public_key((node / "node.pub").read_bytes())
    assert isinstance(private.curve, ec.SECP384R1)
    assert private.public_key() == public
    assert (node / "node.pub").read_text().split()[2] == "hospital-a"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen: package openssh-client")
def test_ssh_keygen_reads_the_keys_and_agrees_on_the_fingerprint(made, capsys):
    node = made / "nodes/hospital-a"
    derived = subprocess.check_output(["ssh-keygen", "-y", "-f", node / "node.key"], text=True)
    assert derived.split()[:2] == (node / "node.pub").read_text().split()[:2]
    shown = subprocess.check_output(["ssh-keygen", "-l", "-f", node / "node.pub"], text=True)
    run("status", made)
    assert shown.split()[1] in capsys.readouterr().out


def test_each_secret_is_64_hexadecimal_digits_of_its_own_without_a_line_break(tmp_path):
    made = make_certificates(tmp_path / "made")
    secrets = [file.read_bytes() for file in made.rglob("executor.secret")]
    assert len(set(secrets)) == len(secrets) == 3
    for secret in secrets:
        assert len(secret) == 64
        assert len(bytes.fromhex(secret.decode())) == 32


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--server-names a..b", "server name 'a..b'"),
        ("--server-names 300.1.1.1", "server name '300.1.1.1'"),
        ("--server-names localhost:8000", "server name 'localhost:8000'"),
        ("--server-names *.example.org", "server name '*.example.org'"),
        ("--server-names fe80::1%eth0", "server name 'fe80::1%eth0'"),
        ("--server-names under_score", "server name 'under_score'"),
        ("--server-names ü.de", "server name 'ü.de'"),
        ("--server-names a,,b", "server name ''"),
        ("--server-names a,A", "server name 'a': it is listed twice"),
        ("--server-names ::1,0:0:0:0:0:0:0:1", "server name '::1': it is listed twice"),
        ("--server-names " + "a" * 64, "server name 'aaa"),
        ("--server-names " + ".".join(["a" * 60] * 5), "server name 'aaa"),
        ("--server-names a --nodes ../b", "node '../b'"),
        ("--server-names a --nodes .b", "node '.b'"),
        ("--server-names a --nodes b/c", "node 'b/c'"),
        ("--server-names a --nodes b,", "node ''"),
        ("--server-names a --nodes b,B", "node 'B': it is listed twice"),
        ("--server-names a --nodes " + "b" * 65, "node 'bbb"),
        ("--server-names a --days 0", "--days: '0'"),
        ("--server-names a --days -3", "--days: '-3'"),
        ("--server-names a --days 1.5", "--days: '1.5'"),
        ("--server-names a --days ²", "--days: '²'"),
        ("--server-names a --days 100000", "--days: '100000'"),
        ("--server-names a --days 400 --authority-days 365", "--days 400: the CA itself expires on"),
        ("--server-names a --authority-days x", "--authority-days: 'x'"),
        ("--server-names a --owner root", "--owner: 'root'"),
        ("--server-names a --owner 1:99999999999", "--owner: '1:99999999999'"),
        ("--server-names a --owner 4294967295:0", "--owner: '4294967295:0'"),
        ("", "--server-names"),
    ],
)
def test_bad_input_is_refused_in_one_line_that_names_it_and_nothing_is_made(tmp_path, capsys, flags, named):
    line = refusal(capsys, "create", tmp_path / "made", *flags.split())
    assert named in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path, capsys, made):
    before = contents(made)
    assert str(made) in refusal(capsys, "create", made, "--server-names", "a")
    assert contents(made) == before
    (tmp_path / "file").write_text("mine")
    assert "file" in refusal(capsys, "create", tmp_path / "file", "--server-names", "a")
    assert "nowhere" in refusal(capsys, "create", tmp_path / "nowhere" / "made", "--server-names", "a")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_is_there_but_empty_is_used_as_a_mounted_volume_is(tmp_path):
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "lost+found").mkdir()
    made = make_certificates(tmp_path / "volume", nodes="hospital-a")
    assert {name for name in modes(made) if name != "lost+found"} == FILES.keys()


@pytest.mark.parametrize("command", ["add-node --nodes b", "renew-server", "renew-authority", "status"])
def test_a_command_for_a_set_that_is_not_there_is_refused(tmp_path, capsys, command):
    name, *flags = command.split()
    assert "missing" in refusal(capsys, name, tmp_path / "missing", *flags)
    (tmp_path / "empty").mkdir()
    assert ".pem" in refusal(capsys, name, tmp_path / "empty", *flags)


COMMANDS = {
    "create": "--server-names a --nodes b,c",
    "add-node": "--nodes x,y",
    "renew-node": "--nodes hospital-a",
    "renew-server": "",
    "renew-authority": "",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fails_at", [1, 2])
def test_what_fails_in_the_middle_leaves_all_as_it_was(tmp_path, monkeypatch, capsys, command, fails_at):
    folder = tmp_path / "made"
    if command != "create":
        make_certificates(folder, nodes="hospital-a")
    before, listed = contents(tmp_path), modes(tmp_path)
    rename, renamed = Path.rename, []

    def full_disk(self, target):
        renamed.append(target)
        if len(renamed) == fails_at:
            raise OSError(28, "No space left on device", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full_disk)
    assert "No space left" in refusal(capsys, command, folder, *COMMANDS[command].split())
    kept = {name: content for name, content in contents(tmp_path).items() if not name.endswith("ca.pem")}
    assert kept == {name: content for name, content in before.items() if not name.endswith("ca.pem")}
    assert modes(tmp_path).keys() == listed.keys()


def test_what_a_killed_command_left_is_swept_away(tmp_path):
    (tmp_path / "made" / ".making-killed").mkdir(parents=True)
    (tmp_path / "made" / ".making-killed" / "ca.key").write_text("never given to anybody")
    made = make_certificates(tmp_path / "made", nodes="hospital-a")
    assert modes(made) == FILES


def test_two_commands_at_once_do_not_mix(made, capsys):
    descriptor = os.open(made, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert "another command is at work" in refusal(capsys, "add-node", made, "--nodes", "b")
    finally:
        os.close(descriptor)
