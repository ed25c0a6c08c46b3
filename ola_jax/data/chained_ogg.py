"""Chained Ogg: several files one after the other in one, of which decoders may read the first alone."""

from ola_jax.data.media import Media

HEADER = 27  # bytes of a page before the lengths of its segments (RFC 3533)
BEGINS = 2  # flag of the first page of a stream


def links(media: Media) -> list[Media]:
    """The files that a chained Ogg file consists of, in order; the file itself if it is no Ogg file."""
    if media.data is None:
        with open(media.path, "rb") as file:
            data = file.read()
    else:
        data = media.data
    starts, place, in_headers = [], 0, False
    while data[place : place + 4] == b"OggS" and place + HEADER <= len(data):
        begins = bool(data[place + 5] & BEGINS)
        if begins and not in_headers:  # streams that are heard at the same time begin together
            starts.append(place)
        in_headers = begins
        segments = data[place + HEADER : place + HEADER + data[place + 26]]
        place += HEADER + len(segments) + sum(segments)
    ends = [*starts[1:], len(data)]
    parts = [Media(media.name, data=data[start:end]) for start, end in zip(starts, ends, strict=True)]
    return parts or [media]
