"""What a file is, by its first bytes; and gzip, unpacked as it is read."""

import io
import zipfile
import zlib
from typing import BinaryIO

from tunery.data.lines import not_utf8
from tunery.data.rows import Faulty

BUFFER_BYTES = 1 << 14
GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
ZIP = b"PK\x03\x04"
# Files, and the streams that `save_to_disk` writes.
ARROW = (b"ARROW1", b"\xff\xff\xff\xff")
# A bomb is small and unpacks to far more than text ever does.
MOST_RATIO = 100
RATIO_COUNTS_FROM_BYTES = 8 << 20
MOST_UNPACKED_BYTES = 16 << 30

UNPACK = "Unpack it, and upload the data set itself, as .jsonl or .jsonl.gz"
EXPORT = "Save the data set as .jsonl, .csv or .parquet"
REFUSED = {
    ZIP: ("a zip archive, a PyTorch file, or another spreadsheet than .xlsx", EXPORT),
    b"(\xb5/\xfd": ("packed with zstd", UNPACK),
    b"BZh": ("packed with bzip2", UNPACK),
    b"\xfd7zXZ": ("packed with xz", UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    GZIP: ("packed twice", UNPACK),
    PARQUET: ("Parquet within gzip", "Unpack it; Parquet is packed already"),
    **{
        bytes([0x80, protocol]): ("a Python pickle, which could run code when it is read", EXPORT)
        for protocol in range(2, 6)
    },
    b"\x93NUMPY": ("a NumPy array", EXPORT),
    b"SQLite format 3": ("a SQLite database", EXPORT),
    b"%PDF": ("a PDF", EXPORT),
    b"\xd0\xcf\x11\xe0": (
        "an old Excel workbook (.xls) or other Office document, or one with a password",
        "Save it as .xlsx without a password, or as .csv",
    ),
}
WIDE_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def must_be_data(start: bytes) -> None:
    """Raises Faulty if a file that begins so cannot be lines of text in UTF-8."""
    for mark, (what, mend) in REFUSED.items():
        if start.startswith(mark):
            raise Faulty("", "unsupported_file", f"the file is {what}", mend)
    if start[257:262] == b"ustar":
        raise Faulty("", "unsupported_file", "the file is a tar archive", UNPACK)
    for mark, encoding in WIDE_MARKS.items():
        if start.startswith(mark):
            raise not_utf8(f"the file is in {encoding}")
    if 0 in start[:4]:
        raise not_utf8("the file begins with zero bytes, as in UTF-16 or a binary file")


def is_workbook(file: BinaryIO) -> bool:
    """Whether a zip archive is an Excel workbook. The file is left at its beginning."""
    try:
        with zipfile.ZipFile(file) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    finally:
        file.seek(0)


class Inflated(io.RawIOBase):
    """The content of a gzip file, of one or more members, never more at once than is asked for.

    Reading raises Faulty where it is damaged, or grows as no text does.
    """

    def __init__(self, packed: BinaryIO) -> None:
        self.packed = packed
        self.member = zlib.decompressobj(wbits=31)
        self.waiting = b""
        self.bytes_in = self.bytes_out = 0

    @classmethod
    def reader(cls, packed: BinaryIO) -> io.BufferedReader:
        return io.BufferedReader(cls(packed), BUFFER_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]  # as io calls it
        out = b""
        while not out:
            if not self.waiting:
                self.waiting = self.packed.read(BUFFER_BYTES)
                self.bytes_in += len(self.waiting)
            if self.member.eof:
                if not self.waiting:
                    return 0
                self.member = zlib.decompressobj(wbits=31)
            elif not self.waiting:
                raise damaged("it ends too early")
            try:
                out = self.member.decompress(self.waiting, len(into))
            except zlib.error as error:
                raise damaged(str(error)) from None
            self.waiting = self.member.unconsumed_tail or self.member.unused_data
        self.bytes_out += len(out)
        most = max(RATIO_COUNTS_FROM_BYTES, MOST_RATIO * (self.bytes_in - len(self.waiting)))
        if self.bytes_out > min(most, MOST_UNPACKED_BYTES):
            raise unpacks_too_far()
        into[: len(out)] = out
        return len(out)


def damaged(reason: str) -> Faulty:
    return Faulty(
        "",
        "damaged_file",
        f"the packed file is damaged from here on ({reason})",
        "Pack it again, and compare the sizes after the upload",
    )


def unpacks_too_far() -> Faulty:
    return Faulty(
        "",
        "unpacks_too_far",
        f"the file unpacks to over {MOST_RATIO} times its size, or over "
        f"{MOST_UNPACKED_BYTES >> 30} GiB",
        "Split it, or upload it as plain .jsonl",
    )
