"""Bytes of a text file to text, when nobody says in which encoding they are."""

import codecs

UNKNOWN = "\ufffd"
"""Stands in the text where a byte is none of any encoding known here."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig", "UTF-8"), (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"), (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"))


def decode(data: bytes) -> tuple[str, str]:
    """The text, and in words what its encoding is taken to be.

    Marked files are what their mark says; else UTF-16 if every other byte is zero, UTF-8 if it is valid as that, and cp1252 line by
    line where it is not: files put together from two systems are in two encodings.
    """
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            return data.decode(codec, "replace"), name
    head = data[:4000]
    if len(head) >= 4 and head.count(0) * 5 > len(head) * 2:
        little = head[1::2].count(0) > head[::2].count(0)
        return data.decode("utf-16-le" if little else "utf-16-be", "replace"), "UTF-16"
    try:
        return data.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError:
        return _by_line(data)


def _by_line(data: bytes) -> tuple[str, str]:
    lines, western, unicode = [], 0, 0
    for line in data.split(b"\n"):
        try:
            lines.append(line.decode("utf-8"))
            unicode += not line.isascii()
        except UnicodeDecodeError:
            lines.append(line.decode("cp1252", "replace"))
            western += 1
    name = "cp1252" if not unicode else f"UTF-8, and cp1252 in {western} of {len(lines)} lines"
    return "\n".join(lines), name
