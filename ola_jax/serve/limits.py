"""Limits of a request, and settings of the server."""

import dataclasses
import pathlib

from ola_jax.errors import OlaError

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest request that is taken; one above is refused before its media are decoded."""

    body_bytes: int = 64 * MIB  # of a request as it is sent
    held_bytes: int = 1024 * MIB  # bodies and fetched media of all requests together
    body_seconds: float = 60.0  # for a client to send a request
    messages: int = 256
    text_characters: int = 1_000_000  # of all messages together
    images: int = 32
    media_bytes: int = 32 * MIB  # of one image, audio or video, encoded
    image_pixels: int = 64_000_000  # width times height
    frame_pixels: int = 4096 * 2304  # of a video frame
    video_frames: int = 20_000
    media_seconds: float = 600.0  # of one audio or video
    decoded_bytes: int = 1024 * MIB  # of all media of a request, decoded
    decode_seconds: float = 30.0  # for the images, the video or the audio of a request
    new_tokens: int = 1024  # of an answer, where the request does not say
    speech_seconds: float = 600.0  # of the audio of an answer, or of a text to be spoken
    queue: int = 64  # requests that wait for their turn
    queue_seconds: float = 60.0  # that they wait
    send_seconds: float = 60.0  # for a client to take a part of an answer

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, may_be_zero = getattr(self, field.name), field.name in ("images", "queue")
            if not (value > 0 or (may_be_zero and value == 0)):
                wanted = "0 or more" if may_be_zero else "more than 0"
                raise OlaError(f"{field.name} is {value}, expected {wanted}")


@dataclasses.dataclass(frozen=True)
class ServerConfig:
    """Settings of the server."""

    model_name: str  # what requests call the model
    limits: Limits = Limits()
    api_keys: tuple[str, ...] = ()  # of which a request must bring one; none: all requests are taken
    cors_origins: tuple[str, ...] = ()  # of web pages that may call the server; "*": all
    media_hosts: tuple[str, ...] = ()  # names of hosts that media may be fetched from; none: no fetching
    private_hosts: bool = False  # media_hosts may have addresses of private networks
    fetch_seconds: float = 20.0  # for one of the media
    media_folder: pathlib.Path | None = None  # local files below it may be named by file: URLs
    decode_workers: int = 4  # requests whose media are fetched and decoded at the same time
    stuck_seconds: float = 120.0  # without a finished step while requests run: not healthy
    ping_seconds: float = 15.0  # between comments in a stream that has nothing to say
    page: bool = False  # serve a web page at /

    def __post_init__(self) -> None:
        if not all(self.api_keys):
            raise OlaError("an API key is empty text")
        if self.media_folder is not None and not self.media_folder.is_dir():
            raise OlaError(f"{self.media_folder}: no such folder; media_folder is one with media files")
        for host in self.media_hosts:
            if not host or "/" in host or host != host.strip():
                raise OlaError(f"media host {host!r}: expected the name of a host, such as media.example.org")
