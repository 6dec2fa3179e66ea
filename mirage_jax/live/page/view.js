// The newest picture of a shared stream, for OBS's browser source and for screens.

const PAUSE = 2000; // milliseconds between tries while nothing is shared

const id = location.pathname.split("/").pop();
const key = new URLSearchParams(location.hash.slice(1)).get("key") ?? "";
const picture = document.getElementById("picture");

async function show() {
  try {
    await watch();
  } catch {
    // The server is gone: as when the stream is.
  }
  picture.hidden = true;
  setTimeout(show, PAUSE);
}

/** Shows pictures until the stream ends. An <img> would not tell when that is. */
async function watch() {
  const answer = await fetch(`/streams/${id}.mjpeg`, { headers: { Authorization: `Bearer ${key}` } });
  if (!answer.ok) return;
  const reader = answer.body.getReader();
  let bytes = new Uint8Array(0);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    bytes = joined(bytes, value);
    let newest = null;
    for (let part = cut(bytes); part; part = cut(bytes)) {
      newest = part.picture;
      bytes = part.rest;
    }
    if (newest) await draw(newest);
  }
}

function joined(one, other) {
  const both = new Uint8Array(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both;
}

/** The first whole part of a multipart stream, {picture, rest}; null if there is none. */
function cut(bytes) {
  const head = new TextDecoder("latin1").decode(bytes.subarray(0, 300));
  const end = head.indexOf("\r\n\r\n");
  const length = Number(/Content-Length: (\d+)/.exec(head)?.[1]);
  if (end < 0 || bytes.length < end + 4 + length + 2) return null;
  const first = end + 4;
  return { picture: bytes.subarray(first, first + length), rest: bytes.slice(first + length + 2) };
}

async function draw(data) {
  const before = picture.src;
  picture.src = URL.createObjectURL(new Blob([data], { type: "image/jpeg" }));
  await picture.decode();
  picture.hidden = false;
  if (before) URL.revokeObjectURL(before);
}

show();
