// The turns of a conversation, and the messages that are made of them.

const PARTS = {
  image: (url) => ({ type: "image_url", image_url: { url } }),
  video: (url) => ({ type: "video_url", video_url: { url } }),
  audio: (url) => ({ type: "input_audio", input_audio: { data: url.slice(url.indexOf(",") + 1) } }),
};

export class Conversation {
  constructor() {
    // Not randomUUID, which pages without TLS do not have.
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    this.name = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    this.turns = []; // {text, media: [{kind, url, old}], answer}
  }

  // A prompt of the model has room for one audio, and for images or one video: what a new turn brings takes the
  // place of what earlier turns have. Returns the media that are no longer part of the conversation.
  add(text, media) {
    const kinds = new Set(media.map((item) => item.kind));
    const excluded = new Set();
    if (kinds.has("audio")) excluded.add("audio");
    if (kinds.has("video")) excluded.add("video").add("image");
    if (kinds.has("image")) excluded.add("video");
    const left = this.turns.flatMap((turn) => turn.media).filter((item) => !item.old && excluded.has(item.kind));
    for (const item of left) item.old = true;
    const turn = { text, media, answer: "" };
    this.turns.push(turn);
    return { turn, left };
  }

  remove(turn) {
    this.turns = this.turns.filter((other) => other !== turn);
  }

  messages() {
    return this.turns.flatMap(({ text, media, answer }) => {
      const kept = media.filter((item) => !item.old);
      const gone = media.filter((item) => item.old).map((item) => `(${item.kind})`);
      const words = [...gone, text].filter(Boolean).join(" ");
      const content = [...kept.map(({ kind, url }) => PARTS[kind](url)), ...(words ? [{ type: "text", text: words }] : [])];
      const question = { role: "user", content };
      return answer.trim() ? [question, { role: "assistant", content: answer }] : [question];
    });
  }
}
