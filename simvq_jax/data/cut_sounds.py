"""Sound files that were cut short or damaged, of the formats whose decoder does not tell."""

import struct
import zlib

UNTOLD = 0x7FFFF000  # sizes from here on stand in WAVs that were written to a pipe
LAST_PAGE = 4  # a flag of Ogg pages
PAGE_HEADER = 27  # bytes, the last of which is the number of segments
CHECKSUM = slice(22, 26)  # of a page
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
ALL_ONES = 2**32 - 1


def missing(encoded: bytes) -> str:
    """What a WAV or Ogg file lacks, as a clause; "" of a whole one and of other formats."""
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
    """By the checksums of its pages, whose decoder leaves out damaged ones, and by the flag that a stream's last page
    has. What follows that and is no page, as tags that other programs add, counts for nothing."""
    place, last = 0, 0
    while encoded[place : place + 4] == b"OggS":
        page = encoded[place : place + _page_size(encoded, place)]
        if len(page) < PAGE_HEADER or _checksum(page) != page[CHECKSUM]:
            return "has a damaged page" if place + len(page) < len(encoded) else "has no last page"
        place, last = place + len(page), page[5] & LAST_PAGE
    if last:
        return ""
    return "has a damaged page" if place < len(encoded) else "has no last page"


def _page_size(encoded: bytes, place: int) -> int:
    """Bytes of the Ogg page that begins at `place`: its header, the sizes of its segments, and these."""
    segments = encoded[place + PAGE_HEADER - 1] if place + PAGE_HEADER <= len(encoded) else 0
    return PAGE_HEADER + segments + sum(encoded[place + PAGE_HEADER : place + PAGE_HEADER + segments])


def _checksum(page: bytes) -> bytes:
    """Ogg's (RFC 3533): CRC-32 of zlib's polynomial, of the page with zeros in its place, but with the bits of bytes in
    the other order and started from zero."""
    blank = page[: CHECKSUM.start] + bytes(4) + page[CHECKSUM.stop :]
    reversed_crc = zlib.crc32(blank.translate(REVERSED), ALL_ONES) ^ ALL_ONES
    return reversed_crc.to_bytes(4, "big").translate(REVERSED)
