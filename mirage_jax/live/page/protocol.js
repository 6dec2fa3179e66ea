// The messages of mirage_jax/live/protocol.py: kind, version, body.

const VERSION = 1;
const KINDS = { hello: 1, picture: 2, prompt: 3, style: 4, reset: 5, share: 6, blend: 7, record: 8, strength: 9, steps: 10 };
const STATE = 0x11;
const STYLED = 0x12;
const STATISTICS = 0x13;
const FREE = 0x14;

/** A message of named fields, for example encode("prompt", {text}). */
export function encode(kind, fields) {
  const body = new TextEncoder().encode(JSON.stringify(fields));
  const data = new Uint8Array(2 + body.length);
  data.set([KINDS[kind], VERSION]);
  data.set(body, 2);
  return data;
}

/** A camera's frame; the picture is a Blob. */
export function encodePicture(sequence, captured, picture) {
  const head = new DataView(new ArrayBuffer(14));
  head.setUint8(0, KINDS.picture);
  head.setUint8(1, VERSION);
  head.setUint32(2, sequence);
  head.setFloat64(6, captured);
  return new Blob([head.buffer, picture]);
}

/** What the server sent, as {kind, ...fields}; null if it is not known. */
export function decode(buffer) {
  const view = new DataView(buffer);
  if (view.byteLength < 2 || view.getUint8(1) !== VERSION) return null;
  const kind = view.getUint8(0);
  if (kind === STYLED) {
    return {
      kind: "picture",
      sequence: view.getUint32(2),
      captured: view.getFloat64(6),
      styled: view.getUint8(14) === 1,
      data: new Blob([new Uint8Array(buffer, 15)], { type: "image/jpeg" }),
    };
  }
  if (kind === FREE) {
    return {
      kind: "free",
      sequence: view.getUint32(2),
      data: new Blob([new Uint8Array(buffer, 6)], { type: "image/jpeg" }),
    };
  }
  if (kind !== STATE && kind !== STATISTICS) return null;
  const fields = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 2)));
  return { kind: kind === STATE ? "state" : "statistics", ...fields };
}
