"""The files inside a download: a file, a folder, or a zip, tar, gz, zst (bz2, xz) of them, nested or not.

    source -> entries (a file on a disk or in an object store, a member of a zip or tar)
           -> each unpacked as it is read, or looked into where it is an archive itself
           -> Members: name, first bytes, and their content as a stream

What a file is, its first bytes tell, never its name. An archive is taken for hostile: nothing is extracted
under a name of its own, and sizes are capped while being read.
"""

import bz2
import errno
import gzip
import io
import lzma
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

import pyarrow as pa

from cfjobs import storage
from cfjobs.errors import CfjobsError, InputError

MAX_BYTES = 64 << 30  # of one unpacked file; the largest that people import has some 10 GiB
MAX_RATIO = 200  # unpacked to packed bytes; rating files have about 4, a zip bomb 1000 and more
_SMALL = 1 << 20  # below this many bytes the ratio says nothing
_BLOCK = 1 << 20  # bytes read at once
_HEAD, _SHORT_HEAD, _MANY = 1 << 16, 1 << 10, 500  # bytes kept of a member's beginning, of one among many
_DEPTH = 3  # archives in archives
_ENCRYPTED = 0x1  # bit of a zip member's flags
_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".zst", ".bz2", ".xz")
_MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # an empty one
    b"\x1f\x8b": "gz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
}
_FAULTS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    pa.ArrowInvalid,
    EOFError,
    ValueError,
    OSError,
)


@dataclass
class Meter:
    """Bytes read so far, unpacked, or packed where the unpacked size is not known beforehand."""

    done: int = 0


@dataclass(frozen=True)
class Member:
    """A file of a source. name: its path there. what: its name in messages. size: bytes, as the meter
    counts."""

    name: str
    what: str
    size: int
    head_bytes: int
    meter: Meter = field(repr=False)
    stream: Callable[[], Generator[bytes, None, None]] = field(repr=False)

    @cached_property
    def head(self) -> bytes:
        """The first bytes, a few ten thousand at most."""
        data = b""
        with closing(self.stream()) as blocks:
            while len(data) < self.head_bytes and (block := next(blocks, b"")):
                data += block
        return data[: self.head_bytes]

    @property
    def folder(self) -> str:
        return PurePosixPath(self.name).parent.as_posix()

    @property
    def base(self) -> str:
        """The last part of the name, in lower case."""
        return PurePosixPath(self.name).name.lower()

    @cached_property
    def is_text(self) -> bool:
        return bool(self.head) and b"\0" not in self.head

    @cached_property
    def lines(self) -> list[str]:
        """The first lines, as far as the head holds them whole; none of what is no text."""
        if not self.is_text:
            return []
        text = decoded(self.head.removeprefix(b"\xef\xbb\xbf"))
        whole = text if len(self.head) < self.head_bytes else text.rpartition("\n")[0] or text
        return [line.rstrip("\r") for line in whole.split("\n")[:200] if line.strip()]


def decoded(data: bytes) -> str:
    """UTF-8, or Latin-1 where it is not; a character cut off at the end does not count."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start >= len(data) - 3 and error.start > 0:
            return data[: error.start].decode("utf-8")
        return data.decode("latin-1")


@contextmanager
def opened(source: str) -> Iterator[list[Member]]:
    """The files of a source, in its order, readable for as long as the context lasts.

    Raises InputError for a source that is absent, empty, damaged, encrypted or unsafe, or that is named like
    an archive and is none.
    """
    uri = storage.normal(source)
    with storage.explained(uri), tempfile.TemporaryDirectory(prefix="cfjobs-") as work, ExitStack() as files:
        yield [*_Reader(Path(work), files).of_source(uri)]


Opener = Callable[[], IO[bytes]]


class _Reader:
    """Looks into archives. work: a folder for what has to lie on the disk to be looked into. files: keeps
    archives open."""

    def __init__(self, work: Path, files: ExitStack) -> None:
        self._work, self._files, self._meter, self._n = work, files, Meter(), 0

    def of_source(self, uri: str) -> Iterator[Member]:
        if not storage.exists(uri) and (storage.is_s3(uri) or Path(uri).is_dir()):
            files = storage.list_files(uri, suffix="")
            if not files:
                raise InputError(f"{uri}: holds no files; give a file, an archive or a folder of them")
            for file in files:
                name = file.uri.removeprefix(uri).lstrip("/")
                if file.size and not _is_hidden(name):
                    head = _SHORT_HEAD if len(files) > _MANY else _HEAD
                    yield from self._of(_opener(file.uri), file.uri, name, size=file.size, head=head, depth=1)
            return
        if storage.size(uri) == 0:
            raise InputError(f"{uri}: is empty (0 bytes); download it again")
        name = uri.rpartition("/")[2]
        yield from self._of(_opener(uri), uri, name, size=storage.size(uri), head=_HEAD, depth=0)

    def _of(
        self, open_: Opener, what: str, name: str, *, size: int, head: int, depth: int
    ) -> Iterator[Member]:
        """The members of an entry that can be read from any place."""
        with open_() as file:
            first = file.read(512)
        kind = _kind(first)
        if kind is None:
            if name.lower().endswith(_SUFFIXES):
                raise InputError(f"{what}: is not an archive (begins with {first[:16]!r}); download it again")
            yield self._member(open_, what, name, size=size, head=head)
        elif depth > _DEPTH:
            raise InputError(f"{what}: is an archive in {_DEPTH} others; unpack it and give the folder")
        elif kind == "zip":
            yield from self._of_zip(open_, what, depth=depth)
        elif kind == "tar":
            yield from self._of_tar(open_, what, kind, depth=depth)
        else:
            yield from self._of_packed(open_, what, name, kind, size=size, head=head, depth=depth)

    def _member(self, open_: Opener, what: str, name: str, *, size: int, head: int) -> Member:
        def stream() -> Generator[bytes, None, None]:
            with open_() as file:
                while block := file.read(_BLOCK):
                    self._meter.done += len(block)
                    yield block

        return Member(name, what, size, head, self._meter, stream)

    def _of_zip(self, open_: Opener, what: str, *, depth: int) -> Iterator[Member]:
        with _whole("zip", what):
            archive = zipfile.ZipFile(self._files.enter_context(open_()))
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        for entry in archive.infolist():
            _check_name(entry.filename, what)
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise InputError(
                    f"{what}: member {entry.filename!r} is a symbolic link; get it from its publisher"
                )
        for entry in entries:
            if _is_hidden(entry.filename):
                continue
            if entry.flag_bits & _ENCRYPTED:
                raise InputError(
                    f"{what}: member {entry.filename!r} is encrypted; unpack it and give the folder"
                )
            limit = min(MAX_BYTES, max(_SMALL, MAX_RATIO * entry.compress_size))
            inside = f"{what} ({entry.filename})"
            if entry.file_size > limit:
                raise _too_large(inside, limit)

            def open_entry(entry: zipfile.ZipInfo = entry) -> IO[bytes]:
                return archive.open(entry)

            yield from self._of_entry(
                open_entry,
                inside,
                entry.filename,
                "zip",
                size=entry.file_size,
                limit=limit,
                n=len(entries),
                depth=depth,
            )

    def _of_tar(self, open_: Opener, what: str, kind: str, *, depth: int) -> Iterator[Member]:
        with _whole(kind, what):
            file = self._files.enter_context(open_())
            archive = self._files.enter_context(tarfile.open(fileobj=file, mode="r:*"))  # noqa: SIM115  # closed there
            entries = archive.getmembers()
        for entry in entries:
            _check_name(entry.name, what)
            if entry.issym() or entry.islnk():
                raise InputError(f"{what}: member {entry.name!r} is a link; get it from its publisher")
        for entry in entries:
            if not entry.isfile() or not entry.size or _is_hidden(entry.name):
                continue

            def open_entry(entry: tarfile.TarInfo = entry) -> IO[bytes]:
                file = archive.extractfile(entry)
                assert file is not None
                return file

            yield from self._of_entry(
                open_entry,
                f"{what} ({entry.name})",
                entry.name,
                kind,
                size=entry.size,
                limit=MAX_BYTES,
                n=len(entries),
                depth=depth,
            )

    def _of_entry(
        self, open_: Opener, what: str, name: str, kind: str, *, size: int, limit: int, n: int, depth: int
    ) -> Iterator[Member]:
        """A member of an archive, or the members of the archive that it is."""

        def stream() -> Generator[bytes, None, None]:
            with _whole(kind, what), open_() as file:
                yield from _capped(file, what, limit=limit, meter=self._meter)

        with _whole(kind, what), open_() as file:
            inner = _kind(file.read(512))
        if inner is None:
            yield Member(name, what, size, _SHORT_HEAD if n > _MANY else _HEAD, self._meter, stream)
            return
        copy = self._copied(stream())
        yield from self._of(copy.open_, what, name, size=copy.size, head=_HEAD, depth=depth + 1)

    def _of_packed(
        self, open_: Opener, what: str, name: str, kind: str, *, size: int, head: int, depth: int
    ) -> Iterator[Member]:
        """What a gz, zst, bz2 or xz holds: one file, or a tar."""
        limit = min(MAX_BYTES, max(_SMALL, MAX_RATIO * size))

        def unpacked(meter: Meter) -> Generator[bytes, None, None]:
            with _whole(kind, what), open_() as packed, _unpacker(kind, packed) as file:
                n = at = 0
                while block := file.read(_BLOCK):
                    n += len(block)
                    if n > limit:
                        raise _too_large(what, limit)
                    meter.done += packed.tell() - at
                    at = packed.tell()
                    yield block

        with closing(unpacked(Meter())) as blocks:
            first = next(blocks, b"")
        stem = name[: name.rfind(".")] if name.lower().endswith(_SUFFIXES) else name
        if _kind(first) == "tar":
            if kind == "zst":
                copy = self._copied(unpacked(Meter()))
                yield from self._of_tar(copy.open_, what, "tar", depth=depth)
            else:
                yield from self._of_tar(open_, what, f"tar.{kind}", depth=depth)
        elif _kind(first):
            copy = self._copied(unpacked(Meter()))
            yield from self._of(copy.open_, what, stem, size=copy.size, head=head, depth=depth + 1)
        else:
            yield Member(stem, what, size, head, self._meter, lambda: unpacked(self._meter))

    def _copied(self, blocks: Iterator[bytes]) -> "_Copy":
        self._n += 1
        path = self._work / str(self._n)
        with storage.explained(str(path)), path.open("wb") as file:
            for block in blocks:
                file.write(block)
        return _Copy(path)


@dataclass(frozen=True)
class _Copy:
    """An archive of an archive, on the disk."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def open_(self) -> IO[bytes]:
        return self.path.open("rb")


def _opener(uri: str) -> Opener:
    """A file on a disk, or in an object store by ranged requests."""
    if storage.is_s3(uri):
        return lambda: io.BufferedReader(storage.RandomAccess(uri), 8 << 20)
    return lambda: Path(uri).open("rb")


def _kind(first: bytes) -> str | None:
    """What packs a file that begins so; None for no archive."""
    if first[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), None)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextmanager
def _unpacker(kind: str, packed: IO[bytes]) -> Iterator[_Readable]:
    if kind == "zst":
        yield pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd")
    elif kind == "gz":
        with gzip.GzipFile(fileobj=packed) as file:
            yield file
    elif kind == "bz2":
        with bz2.BZ2File(packed) as unpacked:
            yield unpacked
    else:
        with lzma.LZMAFile(packed) as unpacked_xz:
            yield unpacked_xz


def _capped(file: IO[bytes], what: str, *, limit: int, meter: Meter) -> Iterator[bytes]:
    """The content, not believing the size that the archive declares."""
    n = 0
    while block := file.read(_BLOCK):
        n += len(block)
        if n > limit:
            raise _too_large(what, limit)
        meter.done += len(block)
        yield block


@contextmanager
def _whole(kind: str, what: str) -> Iterator[None]:
    """Whatever is wrong with an archive as one raises InputError."""
    try:
        yield
    except CfjobsError:
        raise
    except _FAULTS as error:
        # A wrong offset is an invalid seek; bz2 raises a bare OSError. Any other is not the archive's fault.
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
            raise
        raise InputError(
            f"{what}: is a damaged {kind} ({error or type(error).__name__}); download it again"
        ) from error
    except NotImplementedError as error:
        raise InputError(f"{what}: is packed in an unknown way ({error}); unpack it first") from error


def _check_name(name: str, what: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in (parts or ("",))[0]:
        raise InputError(f"{what}: member {name!r} leads out of the archive; get it from its publisher")


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any((part[0] == "." and part != ".") or part == "__MACOSX" for part in parts)


def _too_large(what: str, limit: int) -> InputError:
    return InputError(
        f"{what}: unpacks to more than {limit:,} bytes, like a zip bomb; get it from its publisher, "
        "or unpack it and give the folder"
    )
