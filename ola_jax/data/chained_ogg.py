"""Chained Ogg: several files concatenated in one, of which decoders may read only the first."""

from ola_jax.data.media import Media, MediaBytes

HEADER = 27  # bytes of a page before the lengths of its segments (RFC 3533)
FIRST_PAGE = 2  # flag of the first page of a stream


def split_links(media: Media) -> list[Media]:
    """The files that a chained Ogg file consists of, in order; the file itself if it is not an Ogg file."""
    data = media.read()
    starts, offset, in_headers = [], 0, False
    while data[offset : offset + 4] == b"OggS" and offset + HEADER <= len(data):
        begins = bool(data[offset + 5] & FIRST_PAGE)
        if begins and not in_headers:  # streams that play at the same time begin together
            starts.append(offset)
        in_headers = begins
        segments = data[offset + HEADER : offset + HEADER + data[offset + 26]]
        offset += HEADER + len(segments) + sum(segments)
    ends = [*starts[1:], len(data)]
    parts = [MediaBytes(media.name, data[start:end]) for start, end in zip(starts, ends, strict=True)]
    return [*parts] or [media]
