// Asking the server: one answer as a stream of changes.

export class ServerError extends Error {}

export async function getJson(path, key) {
  const reply = await fetch(path, { headers: authorization(key) });
  const body = await reply.json();
  if (!reply.ok) throw Object.assign(new ServerError(body.error.message), { status: reply.status });
  return body;
}

// Yields {text}, {audio: bytes}, {skipped}, and at the end {reason}. Throws ServerError.
export async function* answer(body, key, signal) {
  const reply = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  if (!reply.ok) throw new ServerError(await errorOf(reply));
  for await (const data of events(reply.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message);
    for (const { delta, finish_reason: reason } of chunk.choices) {
      if (delta.content) yield { text: delta.content };
      if (delta.audio?.data) yield { audio: bytesOf(delta.audio.data) };
      if (delta.audio?.skipped) yield { skipped: delta.audio.skipped };
      if (reason) yield { reason };
    }
  }
  throw new ServerError("the connection ended before the answer did");
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) if (block.startsWith("data: ")) yield block.slice(6);
  }
}

async function errorOf(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return `the server answered with status ${reply.status}`;
  }
}

function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
