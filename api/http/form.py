"""A multipart form, streamed: its one file goes straight to storage, its fields are small texts.
Parts come in any order (the SDKs differ).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.storage.incoming import Incoming
from tunery.errors import InvalidRequest, TooLarge, WrongContentType

MAX_FIELD_BYTES = 4096
MAX_FIELDS = 16
# Boundaries, headers and fields: all that is not the file.
MAX_FRAME_BYTES = 1 << 20


def body_of_form(
    file_field: str, what: str, fields: dict[str, dict[str, Any]], *, required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """For /openapi.json: the form with a file, which is `what`, and these fields, each by its
    schema.
    """
    media = "application/octet-stream"
    file = {file_field: {"type": "string", "contentMediaType": media, "description": what}}
    schema = {
        "type": "object",
        "properties": file | fields,
        "required": [file_field, *required],
        "additionalProperties": False,
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


@dataclass
class Form:
    """What came: the file's own name (None: there was no file), and the fields."""

    filename: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


async def read_form(
    content_type: str, body: AsyncIterator[bytes], incoming: Incoming, *, file_field: str
) -> Form:
    """Reads the whole body. Raises `WrongContentType`, `InvalidRequest` for a broken form, and
    `TooLarge` for one that holds too much beside its file.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise WrongContentType(
            f"Send the bytes as multipart/form-data with a boundary, in the part `{file_field}`."
        )
    reader = FormReader(incoming, file_field)
    came = 0
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.begin_part,
                "on_header_field": reader.add_header_name,
                "on_header_value": reader.add_header_value,
                "on_header_end": reader.end_header,
                "on_headers_finished": reader.end_headers,
                "on_part_data": reader.add_data,
                "on_part_end": reader.end_part,
                "on_end": reader.end,
            },
        )
        async for chunk in body:
            came += len(chunk)
            parser.write(chunk)
            if came - incoming.size > MAX_FRAME_BYTES:
                raise TooLarge(f"The form has over {MAX_FRAME_BYTES:,} bytes beside its file.")
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"The multipart body is broken: {error}.") from error
    if not reader.whole:
        raise InvalidRequest("The multipart body ends before its last boundary.")
    return reader.form


class FormReader:
    """The parser's callbacks; one part at a time."""

    def __init__(self, incoming: Incoming, file_field: str) -> None:
        self.form = Form()
        self.incoming = incoming
        self.file_field = file_field
        self.whole = False
        self.begin_part()

    def begin_part(self) -> None:
        self.name = ""
        self.is_file = False
        self.text = b""
        self.header_name = b""
        self.header_value = b""

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self.header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self.header_value += data[start:end]

    def end_header(self) -> None:
        if self.header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self.header_value)
            self.name = options.get(b"name", b"").decode(errors="replace")
            self.is_file = self.name == self.file_field
            if self.is_file:
                if self.form.filename is not None:
                    raise InvalidRequest("Send one file at a time.", param=self.name)
                filename = options.get(b"filename", b"").decode(errors="replace")
                self.form.filename = filename or "upload.jsonl"
        self.header_name = self.header_value = b""

    def end_headers(self) -> None:
        if not self.name:
            raise InvalidRequest("A part of the multipart body has no name.")

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self.is_file:
            self.incoming.write(memoryview(data)[start:end])
            return
        self.text += data[start:end]
        if len(self.text) > MAX_FIELD_BYTES:
            raise TooLarge(f"{self.name} is longer than {MAX_FIELD_BYTES} bytes.", param=self.name)

    def end_part(self) -> None:
        if not self.is_file:
            self.form.fields[self.name] = self.text.decode(errors="replace")
            if len(self.form.fields) > MAX_FIELDS:
                raise InvalidRequest(f"The form has more than {MAX_FIELDS} fields.")

    def end(self) -> None:
        self.whole = True
