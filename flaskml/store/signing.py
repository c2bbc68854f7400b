"""The key of an installation, and what it vouches for.

A manifest is signed with HMAC-SHA-256. The key lies apart from the models, so that who can only write models cannot
have one loaded. A store is moved with its key.
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


class Signer:
    """Signs and verifies with the key in one file: read on first use, made when something is first signed."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self.disk = disk
        self._key: bytes | None = None

    def sign(self, content: bytes, *, new_key: bool) -> bytes:
        """The signature, in hex; with `new_key`, a key is made if there is none.

        Raises OSError if it cannot be written, and `DamagedFile` if there is none and none is to be made.
        """
        key = self._read() or (self._make() if new_key else None)
        if key is None:
            raise self._unusable("it is gone, and what is stored was signed with it")
        return self._digest(key, content)

    def verify(self, content: bytes, signature: bytes) -> bool:
        """Whether the signature is ours for exactly this content; False if there is no key."""
        key = self._read()
        return key is not None and hmac.compare_digest(self._digest(key, content), signature)

    def _digest(self, key: bytes, content: bytes) -> bytes:
        return hmac.new(key, content, hashlib.sha256).hexdigest().encode()

    def _read(self) -> bytes | None:
        if self._key is None:
            try:
                content = self.path.read_bytes()  # A secret that is mounted is often a link.
            except FileNotFoundError:
                return None
            except OSError as error:
                raise self._unusable(f"it cannot be read ({error.strerror})") from error
            if len(content) != KEY_BYTES:
                raise self._unusable("it is not a signing key")
            self._key = content
        return self._key

    def _unusable(self, reason: str) -> DamagedFile:
        return DamagedFile(self.path.name, reason, remedy="Restore it from where the store came from.")

    def _make(self) -> bytes:
        """A new key, or the one that another process has made in the meantime."""
        self.disk.make_directory(self.path.parent)
        with self.disk.lock(self.path.with_name(f".{self.path.name}.lock")):
            if (key := self._read()) is None:
                self.disk.sweep(self.path.parent)
                key = token_bytes(KEY_BYTES)
                self.disk.replace(self.path, key)
        return key
