"""What becomes of a set of certificates and keys: completed, added to, renewed, changed, looked at."""

import os
import shutil
from datetime import datetime, timedelta

import pytest
from cryptography import x509

from deploy.certificates import authority
from tests.deploy.handshakes import grpc_server, grpc_trusts, python_trusts
from tests.deploy.secured import make_certificates
from tests.deploy.sets import certificate, contents, extension, modes, refusal, run

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
def made(tmp_path):
    return make_certificates(tmp_path / "made", nodes="hospital-a")


def test_if_missing_makes_a_set_once_and_then_leaves_it(tmp_path, capsys):
    asked = (
        "create",
        tmp_path / "made",
        "--if-missing",
        "--server-names",
        "localhost,superlink",
        "--nodes",
        "b",
    )
    run(*asked)
    before = contents(tmp_path)
    capsys.readouterr()
    run(*asked)
    assert "the set is complete\n" in capsys.readouterr().out
    assert contents(tmp_path) == before


def test_if_missing_adds_the_nodes_that_a_set_lacks(made, capsys):
    before = contents(made)
    run("create", made, "--if-missing", "--server-names", "superlink", "--nodes", "hospital-a,hospital-b")
    assert "added hospital-b" in capsys.readouterr().out
    after = contents(made)
    assert {name for name in after if name not in before} == {
        f"nodes/hospital-b/{name}" for name in ("ca.pem", "node.key", "node.pub", "executor.secret")
    }
    assert {name: after[name] for name in before} == before


def test_if_missing_does_not_need_the_authoritys_key(made):
    (made / "authority/ca.key").unlink()
    run("create", made, "--if-missing", "--server-names", "superlink", "--nodes", "hospital-a,hospital-b")
    assert (made / "nodes/hospital-b/node.key").is_file()


@pytest.mark.parametrize(
    "lost", ["authority/ca.pem", "superlink/server.key", "nodes/hospital-a/executor.secret"]
)
def test_if_missing_refuses_an_incomplete_set_and_names_what_it_lacks(made, capsys, lost):
    (made / lost).unlink()
    assert lost in refusal(capsys, "create", made, "--if-missing", "--server-names", "superlink")


def test_if_missing_refuses_a_server_certificate_that_lacks_a_name_or_has_ended(
    tmp_path, capsys, monkeypatch
):
    class LongAgo(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(days=400)

    with monkeypatch.context() as patched:
        patched.setattr(authority, "datetime", LongAgo)
        made = make_certificates(tmp_path / "made")
    asked = ("create", made, "--if-missing", "--server-names", "superlink,example.org")
    assert "expired on" in refusal(capsys, *asked)
    run("renew-server", made)
    assert "is not valid for example.org" in refusal(capsys, *asked)
    run("renew-server", made, "--server-names", "superlink,example.org")
    run(*asked)


@as_root
def test_owner_gets_everything(tmp_path):
    made = make_certificates(tmp_path / "made", "--owner", "10001:10002")
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (made, *made.rglob("*"))} == {(10001, 10002)}
    assert {mode for name, mode in modes(made).items() if name.endswith(("key", "secret"))} == {0o600}


@as_root
def test_what_root_renews_belongs_to_whom_the_folder_belongs_to(tmp_path):
    made = make_certificates(tmp_path / "made", "--owner", "10001:10002")
    run("renew-server", made)
    run("add-node", made, "--nodes", "c")
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made.rglob("*")} == {(10001, 10002)}


def test_only_root_may_give_files_to_another_user(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "only root" in refusal(
        capsys, "create", tmp_path / "made", "--server-names", "a", "--owner", "1:1"
    )
    assert not (tmp_path / "made").exists()


def test_add_node_makes_a_key_and_touches_nothing_else(made, capsys):
    before = contents(made)
    run("add-node", made, "--nodes", "hospital-b")
    after = contents(made)
    assert {name: after[name] for name in before} == before
    assert after["nodes/hospital-b/ca.pem"] == before["authority/ca.pem"]
    assert "'hospital-b'" in refusal(capsys, "add-node", made, "--nodes", "hospital-b")
    assert "'HOSPITAL-B'" in refusal(capsys, "add-node", made, "--nodes", "HOSPITAL-B")
    assert contents(made) == after


def test_renew_server_signs_a_new_key_with_the_same_authority_and_keeps_names_and_secret(made):
    before = contents(made)
    old = certificate(made / "superlink/server.pem")
    run("renew-server", made, "--days", 30)
    new, after = certificate(made / "superlink/server.pem"), contents(made)
    assert new.public_key() != old.public_key()
    assert new.not_valid_after_utc < old.not_valid_after_utc
    names = [extension(one, x509.SubjectAlternativeName).value for one in (old, new)]
    assert names[0] == names[1]
    for same in (
        "authority/ca.pem",
        "authority/ca.key",
        "superlink/executor.secret",
        "nodes/hospital-a/node.key",
    ):
        assert after[same] == before[same]
    assert python_trusts(made / "nodes/hospital-a/ca.pem", made / "superlink", "localhost")
    assert [path.name for path in (made / "retired").glob("*/server.key")] == ["server.key"]


def test_renew_server_takes_new_names_and_a_new_secret_if_asked(made):
    secret = (made / "superlink/executor.secret").read_bytes()
    run("renew-server", made, "--server-names", "fl.example.org", "--new-secret")
    assert python_trusts(made / "nodes/hospital-a/ca.pem", made / "superlink", "fl.example.org")
    assert not python_trusts(made / "nodes/hospital-a/ca.pem", made / "superlink", "localhost")
    assert (made / "superlink/executor.secret").read_bytes() != secret


def test_renew_server_needs_the_authoritys_own_key(made, tmp_path, capsys):
    key = made / "authority/ca.key"
    shutil.copy(make_certificates(tmp_path / "other") / "authority/ca.key", key)
    assert "ca.key" in refusal(capsys, "renew-server", made)
    key.write_text("no key")
    assert "ca.key" in refusal(capsys, "renew-server", made)
    key.unlink()
    assert "ca.key: it is missing" in refusal(capsys, "renew-server", made)


def test_renew_node_makes_a_new_key_and_keeps_the_old_one_to_unregister(made, capsys):
    before = contents(made)
    run("renew-node", made, "--nodes", "hospital-a")
    after = contents(made)
    assert after["nodes/hospital-a/node.pub"] != before["nodes/hospital-a/node.pub"]
    assert after["nodes/hospital-a/executor.secret"] != before["nodes/hospital-a/executor.secret"]
    (old,) = (made / "retired").glob("hospital-a-*/node.pub")
    assert old.read_bytes() == before["nodes/hospital-a/node.pub"]
    assert str(old) in capsys.readouterr().out
    assert "nodes here: hospital-a" in refusal(capsys, "renew-node", made, "--nodes", "hospital-z")


def test_at_each_step_of_a_change_of_the_authority_those_who_are_told_and_those_who_are_not_can_connect(made):
    old = made.parent / "old.pem"
    shutil.copy(made / "authority/ca.pem", old)

    def trusted(*authorities):
        with grpc_server(made / "superlink") as port:
            by_grpc = [grpc_trusts(file, port) for file in authorities]
        assert by_grpc == [python_trusts(file, made / "superlink", "localhost") for file in authorities]
        return by_grpc

    run("renew-authority", made)
    both = made.parent / "both.pem"
    shutil.copy(made / "authority/ca.pem", both)
    assert trusted(old, both) == [True, True]
    run("renew-server", made)
    assert trusted(old, both) == [False, True]
    run("retire-authority", made)
    assert trusted(old, both, made / "authority/ca.pem") == [False, True, True]
    run("status", made)


def test_all_parts_hold_the_authorities_that_are_trusted_now(made, capsys):
    run("renew-authority", made)
    run("add-node", made, "--nodes", "late")
    assert "a change is under way" in refusal(capsys, "renew-authority", made)
    assert "`renew-server` comes first" in refusal(capsys, "retire-authority", made)
    assert (made / "nodes/late/ca.pem").read_bytes().count(b"BEGIN CERTIFICATE") == 2
    run("renew-server", made)
    run("retire-authority", made)
    places = [made / "authority", made / "superlink", *(made / "nodes").iterdir()]
    assert len({(place / "ca.pem").read_bytes() for place in places}) == 1
    assert "there is none to retire" in refusal(capsys, "retire-authority", made)


def test_status_says_what_ends_when(made, capsys):
    run("status", made)
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in lines] == [
        "authority/ca.pem",
        "superlink/server.pem",
        "nodes/hospital-a/node.pub",
    ]
    assert "in 364 days" in lines[1]
    assert "superlink, localhost, 127.0.0.1" in lines[1]


def test_status_leaves_with_1_if_something_ends_soon(made, capsys):
    with pytest.raises(SystemExit) as left:
        run("status", made, "--days", 366)
    assert left.value.code == 1
    assert "server.pem: it expires within 366 days" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("swapped", "said"),
    [
        ("superlink/server.key", "it is not the key of server.pem"),
        ("superlink/ca.pem", "it differs from authority/ca.pem"),
        ("authority/ca.key", "it is not the key of the first certificate"),
        ("nodes/hospital-a/node.pub", "it is not the public key of node.key"),
    ],
)
def test_status_leaves_with_1_if_things_do_not_belong_together(made, tmp_path, capsys, swapped, said):
    other = make_certificates(tmp_path / "other", nodes="hospital-a")
    shutil.copy(other / swapped, made / swapped)
    with pytest.raises(SystemExit) as left:
        run("status", made)
    assert left.value.code == 1
    assert said in capsys.readouterr().out
