"""The folder of certificates and keys; it changes by whole parts, completely or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from deploy.certificates.names import SetupError

CA_KEY, CA, SERVER, SERVER_KEY = "ca.key", "ca.pem", "server.pem", "server.key"
NODE_KEY, NODE_PUBLIC, SECRET = "node.key", "node.pub", "executor.secret"
AUTHORITY, SUPERLINK, NODES, RETIRED = Path("authority"), Path("superlink"), Path("nodes"), Path("retired")
SECRET_FILES = (CA_KEY, SERVER_KEY, NODE_KEY, SECRET)
SUPERLINK_FILES = (CA, SERVER, SERVER_KEY, SECRET)
NODE_FILES = (CA, NODE_KEY, NODE_PUBLIC, SECRET)

_STAGING = ".making-"
_IGNORED = ("lost+found",)
"""Entries of a fresh file system; a folder with these alone counts as empty."""

Files = Mapping[str, bytes]
"""Contents of a part's files by name."""


class CertificateFolder:
    """The folder of a federation's certificates, keys and secrets.

    Whatever the umask, private files are readable and folders accessible by their owner only.

    Parameters
    ----------
    path
        The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self, *, make: bool = False) -> Iterator[None]:
        """Lock the folder against other commands.

        Parameters
        ----------
        make
            Make the folder if it is missing; it is removed again if the body fails.

        Raises
        ------
        SetupError
            If it is not a folder, or another command is at work in it.
        """
        with ExitStack() as undo:
            if make and not self.path.exists():
                self._make()
                undo.callback(_remove_if_empty, self.path)
            if not self.path.is_dir():
                raise SetupError(f"{self.path}: it must be a folder made by `create`")
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                self._lock(descriptor)
                self._remove_leftovers()
                yield
                undo.pop_all()
            finally:
                os.close(descriptor)

    def is_empty(self) -> bool:
        """Tell whether nothing is in the folder."""
        return not [entry for entry in self.path.iterdir() if entry.name not in _IGNORED]

    def node_names(self) -> list[str]:
        """Return the names of the nodes that have keys in the folder."""
        nodes = self.path / NODES
        return sorted(entry.name for entry in nodes.iterdir() if entry.is_dir()) if nodes.is_dir() else []

    def read(self, place: Path, name: str) -> bytes:
        """Read a part's file.

        Raises
        ------
        SetupError
            If it does not exist.
        """
        file = self.path / place / name
        if not file.is_file():
            raise SetupError(f"{file}: it is missing")
        return file.read_bytes()

    def has(self, place: Path, name: str) -> bool:
        """Tell whether a part has a file."""
        return (self.path / place / name).is_file()

    def install(self, parts: Mapping[Path, Files]) -> list[Path]:
        """Install parts; an existing part moves to ``retired``, with the time added to its name.

        If anything fails, everything is restored.

        Returns
        -------
        list[Path]
            Where the replaced parts are now.
        """
        retired = []
        with self._staging() as staging, ExitStack() as undo:
            for place, files in parts.items():
                self._write_part(staging / place, files)
            for place in parts:
                target = self.path / place
                self._make_parent(target, undo)
                if target.exists():
                    retired.append(self._retire(target, undo))
                (staging / place).rename(target)
                undo.callback(target.rename, staging / place)
            undo.pop_all()
        return retired

    def overwrite(self, place: Path, name: str, content: bytes) -> None:
        """Replace an existing file atomically.

        Parameters
        ----------
        place
            The part that the file belongs to.
        name
            The file's name.
        content
            Its new content.
        """
        with self._staging() as staging:
            self._write(staging / name, content)
            (staging / name).replace(self.path / place / name)

    def change_owner(self, owner: tuple[int, int]) -> None:
        """Give the folder and all that is in it to a user and group."""
        for entry in (self.path, *self.path.rglob("*")):
            os.chown(entry, *owner, follow_symlinks=False)

    def _make(self) -> None:
        if not self.path.parent.is_dir():
            raise SetupError(f"{self.path}: {self.path.parent} must exist already")
        self.path.mkdir()
        self.path.chmod(0o700)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupError(f"{self.path}: another command is at work in it; try again") from error

    def _remove_leftovers(self) -> None:
        # Left by a command that was killed; nobody has received any of it.
        for left in self.path.glob(f"{_STAGING}*"):
            shutil.rmtree(left)

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.path))
        folder.chmod(0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _write_part(self, folder: Path, files: Files) -> None:
        self._make_folder(folder)
        for name, content in files.items():
            self._write(folder / name, content)

    def _make_folder(self, folder: Path) -> None:
        if not folder.parent.exists():
            self._make_folder(folder.parent)
        folder.mkdir()
        folder.chmod(0o700)
        self._inherit_owner(folder)

    def _write(self, file: Path, content: bytes) -> None:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        file.chmod(0o600 if file.name in SECRET_FILES else 0o644)
        self._inherit_owner(file)

    def _inherit_owner(self, entry: Path) -> None:
        # Root may renew files of a container's user, who must still be able to read them.
        if os.geteuid() == 0:
            folder = self.path.stat()
            os.chown(entry, folder.st_uid, folder.st_gid)

    def _make_parent(self, target: Path, undo: ExitStack) -> None:
        if not target.parent.exists():
            self._make_folder(target.parent)
            undo.callback(_remove_if_empty, target.parent)

    def _retire(self, target: Path, undo: ExitStack) -> Path:
        old = self.path / RETIRED / f"{target.name}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
        self._make_parent(old, undo)
        target.rename(old)
        undo.callback(old.rename, target)
        return old


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()
