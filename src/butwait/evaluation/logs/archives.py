"""Members of a zip archive, also those that Zstandard packed (method 93).

The standard library reads them from Python 3.14 on. pyarrow unpacks Zstandard and is there anyway,
so no package is added for it.
"""

import zipfile
import zlib
from pathlib import Path

import pyarrow as pa

from butwait.records import UserError

ZSTANDARD = 93
MOST_BYTES = 1 << 30
"""Of a member, unpacked: a larger one is none that an evaluation writes."""
_HEADER = 30


class Archive:
    """An archive that is read member by member; a context manager."""

    def __init__(self, path: Path) -> None:
        """Raises UserError where it is no archive, or its end is missing."""
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise UserError(
                f"{path} is no whole archive ({error}): it was cut off or is still being written; "
                "copy it again when it is finished"
            ) from error

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        return list(self._zip.NameToInfo)

    def read(self, name: str) -> bytes:
        """A member's content. Raises UserError where it is damaged, locked or too large."""
        info = self._zip.NameToInfo[name]
        if info.file_size > MOST_BYTES:
            raise self._damaged(name, f"it unpacks to {info.file_size:,} bytes")
        try:
            if info.compress_type != ZSTANDARD:
                return self._zip.read(info)
            return self._zstandard(info)
        except (zipfile.BadZipFile, zlib.error, pa.ArrowException, OSError, EOFError) as error:
            raise self._damaged(name, str(error).partition("\n")[0]) from error
        except (RuntimeError, NotImplementedError) as error:  # a password, another method
            raise self._damaged(name, str(error)) from error

    def _zstandard(self, info: zipfile.ZipInfo) -> bytes:
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(_HEADER)
            if header[:4] != b"PK\x03\x04":
                raise zipfile.BadZipFile("no member begins where it should")
            file.seek(sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28)), 1)
            packed = file.read(info.compress_size)
        with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
            content: bytes = stream.read(info.file_size + 1)
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise zipfile.BadZipFile("its content is not what its checksum says")
        return content

    def _damaged(self, name: str, why: str) -> UserError:
        return UserError(f"{self.path}: its member {name} cannot be read ({why}); copy it again")
