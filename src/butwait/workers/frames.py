"""Objects over a stream of bytes: each as its length, eight bytes, and its pickle."""

import asyncio
import pickle
from typing import Any

_LENGTH = 8
GIVEN_UP = "given up"
"""In the place of a number: the item whose number follows is waited for by nobody any more."""


def framed(thing: Any) -> bytes:
    """The bytes of one object. What cannot be pickled raises as ``pickle.dumps`` does."""
    body = pickle.dumps(thing, protocol=5)
    return len(body).to_bytes(_LENGTH, "little") + body


async def read(stream: asyncio.StreamReader) -> Any:
    """The next object. ``asyncio.IncompleteReadError`` where the other end is gone."""
    length = int.from_bytes(await stream.readexactly(_LENGTH), "little")
    return pickle.loads(await stream.readexactly(length))
