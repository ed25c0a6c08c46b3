"""A voice behind an OpenAI-compatible `/v1/audio/speech`, such as CosyVoice 2 in vllm-omni or sglang-omni."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ola_jax.errors import OlaError, require
from ola_jax.speech.language import Script
from ola_jax.speech.voice import Samples, VoiceError


class HttpVoice:
    """Asks a server for 24 kHz PCM and passes it on as it arrives."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        voice: str = "default",
        api_key: str | None = None,
        speed: float = 1.0,
        scripts: frozenset[Script] | None = None,
        connect_seconds: float = 5.0,
        read_seconds: float = 30.0,  # without any audio
    ):
        if not url.startswith(("http://", "https://")):
            raise OlaError(f"voice URL is {url!r}; expected one such as http://localhost:8091/v1")
        require("speech", "httpx")
        import httpx

        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(read_seconds, connect=connect_seconds)
        self._client = httpx.Client(headers=headers, timeout=timeout)
        self._url = f"{url.rstrip('/')}/audio/speech"
        self._request = {"model": model, "voice": voice, "response_format": "pcm", "speed": speed}
        self.name, self.scripts = f"{model}/{voice}", scripts

    def speak(self, text: str) -> Iterator[Samples]:
        """Parts as the server sends them; closing the iterator closes the connection."""
        import httpx

        odd = b""  # half a sample
        try:
            with self._client.stream("POST", self._url, json={**self._request, "input": text}) as response:
                if response.status_code != 200:
                    raise VoiceError(
                        f"{self.name}: the server answered {response.status_code}{_reason(response)}"
                    )
                if response.headers.get("content-type", "").startswith(("application/json", "text/")):
                    raise VoiceError(f"{self.name}: the server sent text instead of audio{_reason(response)}")
                for received in response.iter_bytes():
                    data = odd + received
                    odd = data[len(data) // 2 * 2 :]
                    if len(data) >= 2:
                        yield np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
        except httpx.TimeoutException as error:
            raise VoiceError(f"{self.name}: the server at {self._url} did not answer in time") from error
        except httpx.HTTPError as error:
            raise VoiceError(f"{self.name}: no answer from {self._url} ({type(error).__name__})") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _reason(response: Any) -> str:
    """The first 200 characters of what the server said, on one line."""
    text = " ".join(response.read()[:1000].decode(errors="replace").split())
    return f": {text[:200]}" if text else ""
