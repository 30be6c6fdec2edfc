"""Running the command that makes certificates, and looking at what it made."""

import stat

import pytest
from cryptography import x509

from deploy import certificates


def modes(folder):
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def certificate(file):
    return x509.load_pem_x509_certificate(file.read_bytes())


def extension(of, kind):
    return of.extensions.get_extension_for_class(kind)


def run(*arguments):
    certificates.main(list(map(str, arguments)))


def refusal(capsys, *arguments):
    """Run a command that must be refused; return its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    said = capsys.readouterr()
    assert left.value.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err
