"""Formats of media by their first bytes; names and media types that clients give do not count."""

from ola_jax.serve.messages import Kind

HEAD = 512  # bytes that are looked at

# How the formats that are decoded begin. Others are refused before a library sees them: Pillow and FFmpeg
# know many that few people use and that had faults, and playlists, which name other files.
IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
AUDIO = (b"fLaC", b"ID3", b"caff", b"#!AMR", b".snd")
VIDEO = (b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3")
BOTH = (b"OggS", b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11")  # Ogg, Matroska with WebM, ASF
RIFF: dict[bytes, tuple[Kind, ...]] = {
    b"WEBP": ("image", "video"),
    b"WAVE": ("audio",),
    b"AVI ": ("video", "audio"),
}
BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")  # of images in MP4's form


def sniff(data: bytes) -> tuple[Kind, ...]:
    """The kinds of media that the bytes may be; empty for unknown formats."""
    head = data[:HEAD]
    if head.startswith((b"GIF87a", b"GIF89a")):
        return ("image", "video")
    if head.startswith(IMAGES):
        return ("image",)
    if head.startswith((b"RIFF", b"RF64")):
        return RIFF.get(head[8:12], ())
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return ("audio",)
    if head[4:8] == b"ftyp":
        return ("image",) if head[8:12] in BRANDS else ("video", "audio")
    if head.startswith(AUDIO) or _is_frame(head):
        return ("audio",)
    if head.startswith(VIDEO) or _is_transport_stream(head):
        return ("video", "audio")
    return ("video", "audio") if head.startswith(BOTH) else ()


def _is_frame(head: bytes) -> bool:
    """True for a frame of MPEG audio or of AAC, which begins with eleven set bits."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] != 0xFF


def _is_transport_stream(head: bytes) -> bool:
    return len(head) > 188 and head[0] == 0x47 and head[188] == 0x47
