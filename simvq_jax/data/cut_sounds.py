"""Sound files that were cut short, of the formats whose decoder does not tell."""

import struct

UNTOLD = 0x7FFFF000  # sizes from here on stand in WAVs that were written to a pipe
LAST_PAGE = 4  # a flag of Ogg pages


def missing(encoded: bytes) -> str:
    """What a WAV or Ogg file lacks at its end, as a clause; "" of a whole one and of other formats."""
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WAVE":
        return _missing_of_wav(encoded)
    if encoded[:4] == b"OggS":
        return _missing_of_ogg(encoded)
    return ""


def _missing_of_wav(encoded: bytes) -> str:
    """By the size that the chunk of samples has in its header."""
    place = 12
    while place + 8 <= len(encoded):
        name, size = struct.unpack_from("<4sI", encoded, place)
        there = len(encoded) - place - 8
        if name == b"data":
            return f"has {there} of {size} bytes of samples" if there < size < UNTOLD else ""
        place += 8 + size + size % 2
    return ""


def _missing_of_ogg(encoded: bytes) -> str:
    """By the flag that a stream's last page has."""
    page = encoded.rfind(b"OggS")
    whole = page + 5 < len(encoded) and encoded[page + 5] & LAST_PAGE
    return "" if whole else "has no last page"
