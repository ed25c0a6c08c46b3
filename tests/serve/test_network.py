"""Media from the network: off unless allowed, from allowed hosts alone, at addresses that were checked."""

import contextlib
import http.server
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

import pytest

from ola_jax.serve.addresses import Url, is_allowed, is_public, parse_url
from ola_jax.serve.api_error import ApiError
from ola_jax.serve.network import Fetcher
from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import INPUTS, Running, chat, image, running, video

DATA = (INPUTS / "img_rgb.png").read_bytes()


class Handler(http.server.BaseHTTPRequestHandler):
    """/image: the bytes; /to?URL: a redirect; /slow, /large, /cut, /missing, /none."""

    def do_GET(self) -> None:
        self.server.paths.append((self.path, self.headers["Host"], dict(self.headers)))
        path, _, query = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", urllib.parse.unquote(query))
            self.end_headers()
        elif path == "/missing":
            self.send_error(404, "secret of the inside")
        elif path == "/slow":
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"H")
                    time.sleep(0.1)
        else:
            self.send_response(200)
            length = {"/large": 10**12, "/cut": len(DATA) + 5, "/none": 0}.get(path, len(DATA))
            if path != "/endless":
                self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(10**4 if path == "/endless" else 1):
                    self.wfile.write(b"" if path == "/none" else DATA)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.paths = []
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def fetch(host: http.server.ThreadingHTTPServer) -> Callable[..., bytes]:
    """Fetches from "media.test", whose address is the local server's."""
    port = host.server_port

    def run(path: str, most: int = 10**6, seconds: float = 10.0, **options) -> bytes:
        text = path if path.startswith("http") else f"http://media.test:{port}{path}"
        given = {"private": True, "resolve": lambda name, number: ["127.0.0.1"]} | options
        return Fetcher((f"media.test:{port}",), seconds=seconds, **given).fetch(text, "here", most)

    return run


def refused(fetch: Callable[..., bytes], *arguments, **options) -> ApiError:
    with pytest.raises(ApiError) as caught:
        fetch(*arguments, **options)
    assert caught.value.status in (400, 413)
    assert "127.0.0.1" not in caught.value.message
    return caught.value


def test_bytes_of_an_allowed_host(fetch: Callable, host: http.server.ThreadingHTTPServer) -> None:
    assert fetch("/image?size=1&x=%20#fragment") == DATA
    path, name, headers = host.paths[-1]
    assert (path, name) == ("/image?size=1&x=%20", f"media.test:{host.server_port}")
    assert headers["Accept-Encoding"] == "identity"


def test_redirects_within_the_list_are_followed(fetch: Callable) -> None:
    assert fetch("/to?/image") == DATA
    assert fetch("/to?/to?/to?/image") == DATA
    assert "redirects" in refused(fetch, "/to?/to?/to?/to?/image").message


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/image",
        "http://localhost:{port}/image",
        "http://169.254.169.254/latest/meta-data",
        "http://other.test/image",
        "//other.test/image",
        "file:///etc/passwd",
        "ftp://media.test/image",
        "http://media.test\\@other.test/",
        "data:image/png;base64,AAAA",
    ],
)
def test_redirects_elsewhere_are_not(
    fetch: Callable, host: http.server.ThreadingHTTPServer, target: str
) -> None:
    before = len(host.paths)
    refused(fetch, "/to?" + urllib.parse.quote(target.format(port=host.server_port)))
    assert len(host.paths) == before + 1  # the second hop was not made


def test_a_redirect_of_an_allowed_name_into_a_private_network_is_refused(
    fetch: Callable, host: http.server.ThreadingHTTPServer
) -> None:
    """The name is resolved again at each hop, and the second time it is private."""
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])
    tried = []

    def resolve(name: str, port: int) -> list[str]:
        tried.append(next(answers))
        return tried[-1]

    fetcher = Fetcher(("media.test",), private=False, seconds=5.0, resolve=resolve)
    url = fetcher._checked("http://media.test/a", "here")
    assert fetcher._address(url, "here") == "93.184.215.14"
    with pytest.raises(ApiError, match="not one that this server fetches from"):
        fetcher._address(url, "here")


def test_the_connection_goes_to_the_address_that_was_checked(fetch: Callable) -> None:
    """A name that has another address the next time it is asked for is asked for once."""
    answers = iter([["127.0.0.1"]])
    assert fetch("/image", resolve=lambda name, port: next(answers)) == DATA


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.215.14", "10.0.0.1"], ["::1"], []])
def test_no_address_may_be_private(
    fetch: Callable, host: http.server.ThreadingHTTPServer, addresses: list[str]
) -> None:
    before = len(host.paths)
    refused(fetch, "/image", private=False, resolve=lambda name, port: addresses)
    assert len(host.paths) == before


def test_larger_files_are_refused_before_and_while_they_come(fetch: Callable) -> None:
    assert refused(fetch, "/large").status == 413
    assert refused(fetch, "/image", most=len(DATA) - 1).status == 413
    assert refused(fetch, "/endless", most=10**5).status == 413
    assert fetch("/image", most=len(DATA)) == DATA


def test_failures_say_nothing_of_the_inside(fetch: Callable) -> None:
    message = refused(fetch, "/missing").message
    assert "404" in message
    assert "secret" not in message
    assert "cannot be fetched" in refused(fetch, "/cut").message
    assert "no bytes" in refused(fetch, "/none").message

    def no_name(name: str, port: int) -> list[str]:
        raise OSError("Name or service not known: secret")

    assert "secret" not in refused(fetch, "/image", resolve=no_name).message


def test_a_host_that_drips_is_cut_off(fetch: Callable) -> None:
    begin = time.monotonic()
    assert "within 0.5 seconds" in refused(fetch, "/slow", seconds=0.5).message
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize(
    "text",
    [
        "http://media.test\\@evil.test/a",
        "http://media.test\\.evil.test/a",
        "http:\\\\media.test/a",
        "http:/media.test/a",
        "http:media.test/a",
        "http://user@media.test/a",
        "http://media.test@evil.test/a",
        "http://media.test:80@evil.test/a",
        "http://media.test#@evil.test/a",
        "http://media.test?@evil.test/",
        "http://media.test/a b",
        "http://media.test/a\nHost: evil",
        "http://media.test/\r\nX: y",
        "http://media.test/\x00",
        "http://media%2Etest/a",
        "http://media.test%00.evil.test/",
        "http://média.test/a",
        "http://media。test/a",
        "http://[::1%25eth0]/a",
        "http://media.test:99999/",
        "http://media.test:0/",
        "http://media.test:8a/",
        "http:///a",
        "http://-media.test/",
        "http://media.test./",
        " http://media.test/a",
        "http://media.test/a ",
        "ftp://media.test/a",
        "file:///etc/passwd",
        "gopher://media.test/a",
        "javascript:alert(1)",
        "",
        "http://media.test/" + "a" * 3000,
    ],
)
def test_urls_that_parsers_may_read_differently_are_none(text: str) -> None:
    assert parse_url(text) is None


def test_the_parts_of_a_url() -> None:
    assert parse_url("HTTP://Media.Test/A?b=c") == Url("http", "media.test", 80, "/A?b=c")
    assert parse_url("https://media.test") == Url("https", "media.test", 443, "/")
    assert parse_url("https://media.test:8443/x@y") == Url("https", "media.test", 8443, "/x@y")
    assert parse_url("http://[2001:DB8::1]:81/a") == Url("http", "2001:db8::1", 81, "/a")


def test_the_list_of_hosts() -> None:
    hosts = ("Media.test", "b.test:8443")
    allowed = lambda text: is_allowed(parse_url(text), hosts)
    assert allowed("http://media.test/")
    assert allowed("https://MEDIA.TEST:443/")
    assert allowed("https://b.test:8443/")
    for text in (
        "http://media.test:81/",
        "http://media.test:443/",
        "https://b.test/",
        "http://a.media.test/",
        "http://media.test.evil/",
        "http://xmedia.test/",
    ):
        assert not allowed(text), text


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "localhost",
        "",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


def test_nothing_is_fetched_unless_the_operator_allows_it(
    server: Running, host: http.server.ThreadingHTTPServer
) -> None:
    before = len(host.paths)
    for name in ("127.0.0.1", "localhost", "[::1]", "0x7f000001", "2130706433"):
        for part in (image(f"http://{name}:{host.server_port}/image"), video(f"http://{name}/a.mp4")):
            status, reply, _ = server.post(chat("What?", part))
            assert status == 400
            assert "fetches nothing" in reply["error"]["message"]
    assert len(host.paths) == before


def test_media_of_an_allowed_host_are_answered_about(host: http.server.ThreadingHTTPServer) -> None:
    name = f"127.0.0.1:{host.server_port}"
    engine = FakeEngine(parity.processor("infer"))
    with running(engine, media_hosts=(name,), private_hosts=True) as allowed:
        fetched = allowed.post(chat("What?", image(f"http://{name}/image")))
        sent = allowed.post(chat("What?", image(DATA)))
        assert fetched[0] == sent[0] == 200
        assert fetched[1]["choices"] == sent[1]["choices"]
        assert allowed.post(chat("What?", image(f"http://localhost:{host.server_port}/image")))[0] == 400
        assert allowed.post(chat("What?", image(f"http://{name}/missing")))[0] == 400
    with running(FakeEngine(parity.processor("infer")), media_hosts=(name,)) as public:
        assert public.post(chat("What?", image(f"http://{name}/image")))[0] == 400
