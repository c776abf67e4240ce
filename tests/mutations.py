"""Damage that text files meet on their way: bytes flipped, inserted, deleted, columns dropped, renamed, doubled, other encodings."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ = settings(
    max_examples=int(os.environ.get("CXR_FUZZ", "100")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_BYTES = [
    b"\x00",
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\xff",
    b"/",
    b"..",
    b"-1",
    b"2",
    b"nan",
    b" ",
    "é".encode(),
    "\u2028".encode(),
]


def _columns(data: bytes, draw) -> bytes:
    rows = [line.split(b",") for line in data.split(b"\n")]
    k = draw(st.integers(0, len(rows[0]) - 1))
    how = draw(st.sampled_from(["drop", "rename", "double", "swap"]))
    if how == "drop":
        rows = [row[:k] + row[k + 1 :] for row in rows]
    elif how == "rename":
        rows[0][k] = draw(st.sampled_from([b"", b"x", rows[0][k].lower(), rows[0][k] + b" ", rows[0][-1]]))
    elif how == "double":
        rows = [row[: k + 1] + row[k:] for row in rows]
    else:
        rows = [row[k:] + row[:k] for row in rows]
    return b"\n".join(b",".join(row) for row in rows)


def _bytes(data: bytes, draw) -> bytes:
    k = draw(st.integers(0, max(len(data) - 1, 0)))
    how = draw(st.sampled_from(["flip", "insert", "delete", "cut"]))
    if how == "flip":
        return data[:k] + bytes([data[k] ^ draw(st.integers(1, 255))]) + data[k + 1 :] if data else data
    if how == "insert":
        return data[:k] + draw(st.sampled_from(_BYTES)) + data[k:]
    if how == "delete":
        return data[:k] + data[k + draw(st.integers(1, 40)) :]
    return data[:k]


def _whole(data: bytes, draw) -> bytes:
    text = data.decode("utf-8", "replace")
    lines = text.splitlines()
    k = draw(st.integers(0, max(len(lines) - 1, 0)))
    how = draw(st.sampled_from(["utf-16", "latin-1", "bom", "crlf", "cr", "twice", "header", "empty"]))
    return {
        "utf-16": lambda: text.encode("utf-16"),
        "latin-1": lambda: (text + "ü").encode("latin-1", "replace"),
        "bom": lambda: text.encode("utf-8-sig"),
        "crlf": lambda: "\r\n".join(lines).encode(),
        "cr": lambda: "\r".join(lines).encode(),
        "twice": lambda: "\n".join([*lines, *lines[k : k + 1], ""]).encode(),
        "header": lambda: "\n".join([*lines[:1], ""]).encode(),
        "empty": lambda: b"",
    }[how]()


@st.composite
def mutated(draw, data: bytes) -> bytes:
    """Give the bytes of a comma-separated text after one to three kinds of damage."""
    for _ in range(draw(st.integers(1, 3))):
        data = draw(st.sampled_from([_columns, _bytes, _whole]))(data, draw)
    return data


@st.composite
def damaged(draw, data: bytes, head: int = 1200) -> bytes:
    """Give the bytes of a binary file after one to four kinds of damage, half of them in its first `head` bytes."""
    for _ in range(draw(st.integers(1, 4))):
        end = draw(st.sampled_from([min(head, len(data)), len(data)]))
        k = draw(st.integers(0, max(end - 1, 0)))
        how = draw(st.sampled_from(["flip", "value", "insert", "delete", "word", "cut"]))
        if how == "flip" and data:
            data = data[:k] + bytes([data[k] ^ 1 << draw(st.integers(0, 7))]) + data[k + 1 :]
        elif how == "value":
            data = data[:k] + draw(st.binary(min_size=1, max_size=4)) + data[k + 1 :]
        elif how == "insert":
            data = data[:k] + draw(st.binary(min_size=1, max_size=16)) + data[k:]
        elif how == "delete":
            data = data[:k] + data[k + draw(st.integers(1, 40)) :]
        elif how == "word":
            data = (
                data[:k] + draw(st.sampled_from([b"\xff\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f"])) + data[k + 4 :]
            )
        else:
            data = data[:k]
    return data
