"""No private key or secret is printed, logged or tracked by git."""

import base64
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization

from deploy import certificates
from deploy.certificates.folder import SECRET_FILES
from deploy.certificates.keys import new_node_key
from tests.deploy.secured import make_certificates, secured
from tests.support.processes import PROJECT

SHORTEST = 16
"""A shorter last line of a key's text proves nothing."""


def traces(file):
    """Return the forms in which a secret file's content would show."""
    content = file.read_bytes()
    if file.name == "executor.secret":
        raw = bytes.fromhex(content.decode())
        return {content, content.upper(), raw, base64.b64encode(content), base64.b64encode(raw)}
    read = (
        serialization.load_ssh_private_key if file.name == "node.key" else serialization.load_pem_private_key
    )
    number = read(content, None).private_numbers().private_value
    body = [line for line in content.splitlines() if not line.startswith(b"-----")]
    beginning = new_node_key("").private.splitlines()[1]  # the same in all keys
    lines = {line for line in body if len(line) >= SHORTEST and line != beginning}
    raw = number.to_bytes(48, "big")
    return {*lines, base64.b64decode(b"".join(body)), raw, raw.hex().encode(), str(number).encode()}


def shown(made, text):
    """Return the secret files of which something is in a text."""
    files = [file for file in made.rglob("*") if file.name in SECRET_FILES]
    assert len(files) >= 6
    return [str(file) for file in files if any(trace in text for trace in traces(file))]


def test_a_secret_that_is_shown_would_be_found(tmp_path):
    made = make_certificates(tmp_path / "made")
    for file in made.rglob("*"):
        if file.name in SECRET_FILES:
            assert shown(made, b"log: " + file.read_bytes().replace(b"\n", b"\\n")) == [str(file)]
            assert shown(made, b"log: " + min(traces(file), key=len)) == [str(file)]


def test_no_command_prints_a_secret(tmp_path, capfd):
    made = make_certificates(tmp_path / "made")
    for command in (
        "create --if-missing --server-names localhost",
        "add-node --nodes c",
        "renew-node --nodes c",
        "renew-server --new-secret",
        "renew-authority",
        "renew-server",
        "retire-authority",
        "status",
    ):
        name, *flags = command.split()
        certificates.main([name, str(made), *flags])
    with pytest.raises(SystemExit):
        certificates.main(["create", str(made), "--server-names", "localhost"])
    said = capfd.readouterr()
    assert shown(made, (said.out + said.err).encode()) == []
    assert "PRIVATE" not in said.out + said.err


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_no_process_logs_a_secret_at_its_most_talkative(tmp_path, capfd):
    made = make_certificates(tmp_path / "made")
    with secured(tmp_path / "flower", made) as flower:
        flower.start_superlink()
        flower.register(flower.public_key("hospital-a"))
        flower.start_supernode("hospital-b")
        flower.join("hospital-a")
        flower.start_launchers("hospital-a")
        logs = flower.logs()
    said = capfd.readouterr()
    assert b"DEBUG" in logs
    assert shown(made, logs + (said.out + said.err).encode()) == []
    assert b"PRIVATE" not in logs


@pytest.fixture
def repository(tmp_path):
    """Provide a repository with nothing but the project's .gitignore."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    shutil.copy(PROJECT / ".gitignore", tmp_path)
    subprocess.run(["git", "-C", str(tmp_path), "add", ".gitignore"], check=True)
    return tmp_path


def untracked(repository):
    command = ["git", "-C", str(repository), "status", "--porcelain", "--untracked-files=all"]
    lines = subprocess.check_output(command, text=True).splitlines()
    return [line.removeprefix("?? ") for line in lines if line.startswith("?? ")]


def test_git_sees_nothing_of_a_set_in_its_usual_folder(repository):
    make_certificates(repository / "certificates")
    assert untracked(repository) == []


def test_git_sees_no_secret_in_a_folder_of_another_name(repository):
    make_certificates(repository / "keys")
    seen = untracked(repository)
    assert seen
    assert not [file for file in seen if file.endswith(SECRET_FILES)]


def test_the_project_holds_no_private_key():
    command = [
        "git",
        "-C",
        str(PROJECT),
        "grep",
        "--untracked",
        "-lE",
        "BEGIN ([A-Z]+ )?PRIVATE KEY",
        "--",
        ":!tests",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("", 1)
