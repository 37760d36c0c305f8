"""UAPI text: pieces of any size mean what the whole means, a set survives every form that it takes, and no
refusal shows a secret."""

from __future__ import annotations

import re

from engine import uapi

SECRETISH = re.compile(r"[0-9a-fA-F]{32,}|[0-9A-Za-z+/]{40,}")
LIMIT = 1 << 16


def one_input(data: bytes) -> None:
    """First byte: the size of the pieces; the rest is what a client writes."""
    size, text = (data[0] or 256) if data else 256, data[1:]
    operations = list(uapi.Reader(LIMIT).feed(text))
    reader = uapi.Reader(LIMIT)
    again = [one for at in range(0, len(text), size) for one in reader.feed(text[at : at + size])]
    assert list(map(_shown, again)) == list(map(_shown, operations))
    assert len(reader._rest) <= uapi.LINE_BYTES + 1
    for operation in operations:
        if isinstance(operation, uapi.Set):
            _check_set(operation)
        elif isinstance(operation, uapi.Refused):
            _check_refusal(operation)


def _shown(operation: uapi.Operation) -> object:
    if isinstance(operation, uapi.Refused):
        return str(operation.error), operation.was_set
    return operation.to_bytes() if isinstance(operation, uapi.Set) else operation


def _check_set(operation: uapi.Set) -> None:
    peers = list(operation.peers)
    assert len(peers) == operation.peer_count
    assert uapi.Set.from_bytes(operation.to_bytes()) == operation
    text = "".join(uapi.format_set(operation))
    written = uapi.parse_set(text)
    # replace_allowed_ips forgets the lines before it, so it stands first where it is written
    assert written == operation and list(written.peers) == peers, text


def _check_refusal(refused: uapi.Refused) -> None:
    error = refused.error
    assert error.errno > 0 and error.line_number > 0 and len(error.line) <= 100 and error.line.isprintable()
    assert error.what and error.why and error.next
    if not error.line.startswith("public_key="):
        assert not SECRETISH.search(error.line), error.line
    assert re.fullmatch(rb"errno=-?[0-9]+\n\n", uapi.answer_refused(refused))
