"""HMAC signatures of manifests, with the signing key of this installation.

A manifest is signed with HMAC-SHA-256. The key file is outside the `models` folder: an attacker who can write to that
folder, but not read the key, cannot get a model loaded (unpickled). A store that moves needs its key file.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from secrets import token_bytes

from flaskml.errors import DamagedFile
from flaskml.store.disk import Disk

KEY_FILE = "signing.key"

KEY_BYTES = 32
"""Bytes of a key: as many as a SHA-256 digest has."""


class Signer:
    """HMAC signatures with the key in the file `path`. The key is read on first use and cached."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self.disk = disk
        self._key: bytes | None = None

    def sign(self, content: bytes, *, new_key: bool) -> bytes:
        """Return the HMAC-SHA-256 signature of `content` in hex. With `new_key`, create the key file if it is missing.

        Raises OSError if the key file cannot be written. Raises `DamagedFile` if it is unusable, or missing without
        `new_key`.
        """
        key = self._read_key() or (self._create_key() if new_key else None)
        if key is None:
            raise self._unusable_key("it is missing, and the stored versions were signed with it")
        return self._digest(key, content)

    def verify(self, content: bytes, signature: bytes) -> bool:
        """Return whether `signature` is the signature of exactly this content. Without a key file it never is.

        Raises `DamagedFile` if the key file is unusable. The comparison takes constant time.
        """
        key = self._read_key()
        return key is not None and hmac.compare_digest(self._digest(key, content), signature)

    def _digest(self, key: bytes, content: bytes) -> bytes:
        return hmac.new(key, content, hashlib.sha256).hexdigest().encode()

    def _read_key(self) -> bytes | None:
        """Return the key; None if the file is missing. Raises `DamagedFile`."""
        if self._key is None:
            try:
                content = self.path.read_bytes()  # Symbolic links are followed: a mounted secret often is one.
            except FileNotFoundError:
                return None
            except OSError as error:
                raise self._unusable_key(f"it cannot be read ({error.strerror})") from error
            if len(content) != KEY_BYTES:
                raise self._unusable_key(f"it is not a signing key of {KEY_BYTES} bytes")
            self._key = content
        return self._key

    def _unusable_key(self, reason: str) -> DamagedFile:
        remedy = "Restore it from a backup, or copy it from the installation that wrote the store."
        return DamagedFile(self.path.name, reason, remedy=remedy)

    def _create_key(self) -> bytes:
        """Create the key file and return the key; return the key of another process that was faster."""
        self.disk.make_directory(self.path.parent)
        with self.disk.lock(self.path.with_name(f".{self.path.name}.lock")):
            if (key := self._read_key()) is None:
                self.disk.remove_leftovers(self.path.parent)
                key = token_bytes(KEY_BYTES)
                self.disk.replace(self.path, key)
        return key
