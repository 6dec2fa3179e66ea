// A connection that comes back by itself, by WebRTC where that finds a way.

import { PeerLine, SocketLine } from "./lines.js";
import { decode, encode } from "./protocol.js";

const FIRST_PAUSE = 1000; // milliseconds before the first new try
const LONGEST_PAUSE = 10000;

/**
 * Calls on.state(state, detail, pause), on.picture(message), on.free(message) with pictures
 * without a source, on.statistics(message), and on.video(stream) with the pictures of a
 * connection by WebRTC; on.track() gives what it sends.
 */
export class Connection {
  #line = null;
  #timer = 0;
  #pause = FIRST_PAUSE;
  #settled = false; // the server said the last word about this connection
  #token;
  #on;

  constructor(token, on) {
    this.#token = token;
    this.#on = on;
    this.ready = false;
    this.webrtc = false; // whether to try it
  }

  /** Whether pictures go and come as video. */
  get video() {
    return this.#line instanceof PeerLine;
  }

  open(socket = !this.webrtc) {
    this.close();
    this.#settled = false;
    this.#on.state("connecting", "");
    let opened = false;
    const on = {
      opened: () => {
        opened = true;
        this.#line.send(encode("hello", { token: this.#token }));
      },
      message: (data) => this.#take(data),
      closed: () => {
        if (this.#line !== line) return;
        if (this.video && !opened) {
          // A WebSocket goes through any proxy, and says why if nothing does.
          this.webrtc = !line.answered;
          this.open(true);
        } else this.#lost();
      },
      video: this.#on.video,
    };
    const line = socket ? new SocketLine(on) : new PeerLine(this.#token, this.#on.track(), on);
    this.#line = line;
  }

  close() {
    clearTimeout(this.#timer);
    const line = this.#line;
    this.#line = null;
    this.ready = false;
    if (line) line.close();
  }

  /** Sends if somebody listens; false if not. */
  send(data) {
    if (!this.ready || !this.#line.open) return false;
    this.#line.send(data);
    return true;
  }

  /** Bytes that the network has not taken yet. */
  get backlog() {
    return this.#line ? this.#line.backlog : 0;
  }

  #take(data) {
    const message = decode(data);
    if (!message) return;
    if (message.kind === "picture") return this.#on.picture(message);
    if (message.kind === "free") return this.#on.free(message);
    if (message.kind === "statistics") return this.#on.statistics(message);
    const { state, detail, retry } = message;
    if (state === "warming" || state === "ready") {
      this.ready = true;
      this.#pause = FIRST_PAUSE;
      this.#on.state(state, detail, message);
      return;
    }
    // busy, refused, ended: the server closes now.
    this.#settled = !retry;
    if (retry) this.#again(state, detail);
    else {
      this.close();
      this.#on.state(state, detail, message);
    }
  }

  #lost() {
    this.ready = false;
    if (!this.#settled) this.#again("lost", "");
  }

  #again(state, detail) {
    this.close();
    const pause = this.#pause * (0.75 + Math.random() / 2);
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
    this.#on.state(state, detail, { pause });
    this.#timer = setTimeout(() => this.open(), pause);
  }
}
