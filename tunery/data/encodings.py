"""Texts that are not in UTF-8, written anew as they are read: UTF-16 with its mark, and tables and
plain texts in Windows' Western encoding, as spreadsheets save them.
"""

import codecs
import io
from typing import BinaryIO

from tunery.data.lines import not_utf8

CHUNK_BYTES = 1 << 18
BUFFER_BYTES = 1 << 14
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
WESTERN = "cp1252"


class Recoded(io.RawIOBase):
    """A text in another encoding as UTF-8. Reading raises Faulty where it is not in that either."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self.file = file
        self.encoding = encoding
        self.decoder = codecs.getincrementaldecoder(encoding)()
        self.waiting = b""
        self.ended = False

    @classmethod
    def reader(cls, file: BinaryIO, encoding: str) -> io.BufferedReader:
        return io.BufferedReader(cls(file, encoding), BUFFER_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]  # as io calls it
        while not self.waiting and not self.ended:
            chunk = self.file.read(CHUNK_BYTES)
            self.ended = not chunk
            try:
                self.waiting = self.decoder.decode(chunk, final=self.ended).encode()
            except UnicodeError as error:
                raise not_utf8(f"the file is not whole in {self.encoding} ({error})") from None
        out, self.waiting = self.waiting[: len(into)], self.waiting[len(into) :]
        into[: len(out)] = out
        return len(out)


def encoding_of(file: BinaryIO, *, western: bool) -> str:
    """utf-8, or what else a file is wholly in. `western`: it may be in Windows' encoding, which has
    no mark. The file is left at its beginning.
    """
    start = file.read(4)
    file.seek(0)
    if start.startswith(UTF_16) and not start.startswith(UTF_32):
        return "utf-16"
    if western and not is_whole(file, "utf-8") and is_whole(file, WESTERN):
        return WESTERN
    return "utf-8"


def is_whole(file: BinaryIO, encoding: str) -> bool:
    """Whether all of a file is in that encoding, and no text of zeros."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while chunk := file.read(CHUNK_BYTES):
            if "\0" in decoder.decode(chunk):
                return False
        decoder.decode(b"", final=True)
    except UnicodeError:
        return False
    finally:
        file.seek(0)
    return True
