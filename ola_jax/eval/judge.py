"""A judge: any server with OpenAI's API for chats; its answers are kept on disk."""

import dataclasses
import hashlib
import json
import pathlib
import threading
import time
from typing import Any

from ola_jax.errors import OlaError, first_line, require

FILE = "judge.jsonl"
TRIES = 4
TIMEOUT = 120.0  # seconds for one answer
MAX_TOKENS = 1024


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """The judge's address, such as "https://api.openai.com/v1", and the name of its model."""

    url: str
    model: str
    key: str | None = dataclasses.field(default=None, repr=False)
    temperature: float = 0.0


class Judge:
    """Asks the judge; the same prompt is asked once, whatever the run. Threads may ask at the same time."""

    def __init__(self, config: JudgeConfig, folder: pathlib.Path, wait: float = 2.0):
        """`wait`: seconds before the second try; twice as many before each further one."""
        require("eval", "httpx")
        self.config, self._path, self._wait = config, folder / FILE, wait
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                try:
                    kept = json.loads(line)
                    self._known[kept["key"]] = kept["answer"]
                except (ValueError, KeyError, TypeError):
                    continue  # being written when a run was killed; it is asked again

    def __call__(self, prompt: str) -> str:
        """The judge's answer. Raises OlaError if it gives none after several tries."""
        facts = [self.config.model, self.config.temperature, MAX_TOKENS, prompt]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        with self._lock:
            if key in self._known:
                return self._known[key]
        answer = self._ask(prompt)
        line = {"key": key, "model": self.config.model, "prompt": prompt, "answer": answer}
        with self._lock, self._path.open("a", encoding="utf-8") as stream:
            if stream.tell() and not _ends_a_line(self._path):
                stream.write("\n")
            stream.write(json.dumps(line) + "\n")
            self._known[key] = answer
        return answer

    def _ask(self, prompt: str) -> str:
        import httpx

        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.config.temperature,
            "max_tokens": MAX_TOKENS,
        }
        headers = {"Authorization": f"Bearer {self.config.key}"} if self.config.key else {}
        reason = ""
        for number in range(TRIES):
            if number:
                time.sleep(self._wait * 2 ** (number - 1))
            try:
                reply = httpx.post(
                    f"{self.config.url.rstrip('/')}/chat/completions",
                    json=body,
                    headers=headers,
                    timeout=TIMEOUT,
                )
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                reason = first_line(error)
                continue
            if reply.status_code == 200:
                return _content(reply.text, self.config.url)
            reason = f"status {reply.status_code}: {reply.text[:200]}"
            if reply.status_code not in (408, 409, 429) and reply.status_code < 500:
                break
        raise OlaError(
            f"the judge {self.config.model} at {self.config.url} does not answer ({reason}); its earlier "
            "answers are kept: run the same command again"
        )


def _content(text: str, url: str) -> str:
    try:
        value: Any = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise OlaError(f"the judge at {url} did not answer as OpenAI's API does: {text[:200]!r}") from error
    return value if isinstance(value, str) else ""


def _ends_a_line(path: pathlib.Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"
