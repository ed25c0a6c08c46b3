"""OpenAI's own client against the server."""

from collections.abc import Iterator

import openai
import pytest

from tests.serve.running import INPUTS, MODEL, Running, audio, chat, image, video


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as found:
        yield found


def create(client: openai.OpenAI, body: dict, **fields):
    """The client's own call; what it does not know goes through extra_body."""
    return client.chat.completions.create(**body, **fields)


def test_an_answer(client: openai.OpenAI) -> None:
    reply = create(client, chat("hello"))
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content.startswith("tokens: text ")
    assert choice.message.content.endswith("seed 7 你好")
    assert choice.finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.prompt_tokens_details.cached_tokens == 0
    assert reply.model == MODEL
    assert reply.id.startswith("chatcmpl-")


def test_a_streamed_answer_is_the_same(client: openai.OpenAI) -> None:
    body = chat("hello", image(INPUTS / "img_rgb.png"))
    whole = create(client, body)
    chunks = list(create(client, body, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-2:] == [None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_the_streaming_helper(client: openai.OpenAI) -> None:
    body = chat("hello")
    with client.chat.completions.stream(**body) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content
    assert final.choices[0].message.content == create(client, body).choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ((image(INPUTS / "img_rgb.png"), "What is this?"), "image"),
        ((image(INPUTS / "img_rgb.png"), image(INPUTS / "img_jpeg.jpg")), "image"),
        ((audio(INPUTS / "a_short.wav"),), "audio"),
        ((video(INPUTS / "clip.mp4"), "What happens?"), "video"),
        ((video(INPUTS / "clip.mp4"), audio(INPUTS / "a_short.wav")), "audio"),
    ],
)
def test_media_arrive_at_the_engine(client: openai.OpenAI, parts: tuple, kind: str) -> None:
    reply = create(client, chat(*parts))
    assert f"{kind} " in reply.choices[0].message.content
    assert getattr(reply.usage.prompt_tokens_details, f"{kind}_tokens") > 0


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")
