"""Where the tokenizers library breaks off."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

OF_THE_MACHINE = re.compile("alloc|memory|thread|resource", re.IGNORECASE)


@contextmanager
def panics_as(refusal: type[Exception]) -> Iterator[None]:
    """What the library breaks off with is no `Exception`. It becomes the `refusal` of the text.

    Raises:
        MemoryError: the library lacked memory or threads, whatever the text.

    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        if OF_THE_MACHINE.search(str(error)):
            raise MemoryError(f"the tokenizer: {error}") from error
        raise refusal(f"the base model's tokenizer breaks on the row: {error}") from error
