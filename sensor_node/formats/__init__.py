"""How a batch of messages is written in the body of a request: a row for each format.

A new format is a function that encodes, and a row; the configuration and delivery follow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sensor_node.core.model import Message, Stream
from sensor_node.formats.message_json import encode_array, encode_lines

# Messages, the stream that they are of and [sink] batch_size → the uncompressed body.
Encode = Callable[[Sequence[Message], Stream, int], bytes]


@dataclass(frozen=True, slots=True)
class Format:
    """A row of FORMATS."""

    name: str  # [sink] format = …
    content_type: str  # the Content-Type header
    encode: Encode


FORMATS = (
    Format("json", "application/json", encode_array),
    Format("json-lines", "application/x-ndjson", encode_lines),
)
