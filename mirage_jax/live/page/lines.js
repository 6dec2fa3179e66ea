// What carries messages: a WebSocket, or WebRTC with video in both directions.
//
// A line calls on.opened(), on.message(ArrayBuffer) and, once, on.closed().

const GATHERING = 2000; // milliseconds for the browser to find its own addresses
const OPENING = 8000; // milliseconds until a way that does not open is given up

export class SocketLine {
  #socket;

  constructor(on) {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/ws`);
    socket.binaryType = "arraybuffer";
    socket.onopen = on.opened;
    socket.onmessage = (event) => on.message(event.data);
    socket.onclose = on.closed;
    this.#socket = socket;
  }

  get open() {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  /** Bytes that the network has not taken yet. */
  get backlog() {
    return this.#socket.bufferedAmount;
  }

  send(data) {
    this.#socket.send(data);
  }

  close() {
    this.#socket.onclose = null;
    this.#socket.close();
  }
}

export class PeerLine {
  #peer = new RTCPeerConnection();
  #channel = this.#peer.createDataChannel("control");
  #on;
  #over = false;

  /** Sends `track`; on.video(stream) gets what comes back. */
  constructor(token, track, on) {
    this.#on = on;
    this.answered = false; // whether the server took the call
    this.#channel.binaryType = "arraybuffer";
    this.#channel.onopen = on.opened;
    this.#channel.onmessage = (event) => on.message(event.data);
    this.#channel.onclose = () => this.#end();
    this.#peer.onconnectionstatechange = () => {
      if (this.#peer.connectionState === "failed") this.#end();
    };
    this.#peer.ontrack = (event) => on.video(new MediaStream([event.track]));
    track.contentHint = "detail"; // rather fewer frames than a smaller picture
    this.#peer.addTrack(track);
    this.#call(token).catch(() => this.#end());
    setTimeout(() => this.open || this.#end(), OPENING);
  }

  get open() {
    return this.#channel.readyState === "open";
  }

  get backlog() {
    return 0; // video adapts by itself
  }

  send(data) {
    this.#channel.send(data);
  }

  close() {
    this.#over = true;
    this.#peer.close();
  }

  #end() {
    if (this.#over) return;
    this.close();
    this.#on.closed();
  }

  async #call(token) {
    const peer = this.#peer;
    await peer.setLocalDescription(await peer.createOffer());
    await new Promise((done) => {
      if (peer.iceGatheringState === "complete") done();
      peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && done();
      setTimeout(done, GATHERING);
    });
    const answer = await fetch("/webrtc", {
      method: "POST",
      body: peer.localDescription.sdp,
      headers: { "Content-Type": "application/sdp", Authorization: `Bearer ${token}` },
    });
    if (!answer.ok) throw new Error(answer.statusText);
    this.answered = true;
    await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  }
}
