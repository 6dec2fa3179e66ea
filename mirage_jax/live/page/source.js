// Where frames come from: a camera, a file or the sample clip, played in one <video>.

/** Why a camera could not be had, in words that help. */
export function cameraHelp(error) {
  if (!navigator.mediaDevices) {
    return "Browsers give a camera to https pages and to this machine's own only. Open the address that the server printed.";
  }
  switch (error.name) {
    case "NotAllowedError":
      return "The browser may not use the camera. Click the camera or lock sign beside the address, allow the camera, and try again.";
    case "NotFoundError":
      return "No camera was found. Plug one in, or take a video file.";
    case "NotReadableError":
      return "The camera is in use by another program. Close it there and try again.";
    default:
      return `The camera did not start (${error.name}).`;
  }
}

export class Source {
  #stream = null;
  #url = "";
  #lost;
  #number = 0; // of the latest wish: an older one that ends later is forgotten

  /** `lost` is called when the camera in use goes away. */
  constructor(video, lost) {
    this.video = video;
    this.#lost = lost;
  }

  get running() {
    return this.video.readyState >= 2 && !this.video.paused;
  }

  /** Opens a camera by its id, or any. */
  async camera(id) {
    const number = ++this.#number;
    if (!navigator.mediaDevices) throw new Error("no cameras here");
    const wish = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
    if (id) wish.deviceId = { exact: id };
    const stream = await navigator.mediaDevices.getUserMedia({ video: wish });
    if (number !== this.#number) {
      stream.getTracks().forEach((track) => track.stop());
      return;
    }
    this.#clear();
    this.#stream = stream;
    stream.getVideoTracks()[0].onended = () => this.#stream === stream && this.#lost();
    this.video.srcObject = stream;
    await this.video.play();
  }

  /** Plays a file (a Blob) round and round. */
  async file(blob) {
    this.#number++;
    this.#clear();
    this.#url = URL.createObjectURL(blob);
    this.video.src = this.#url;
    this.video.loop = true;
    await this.video.play();
  }

  /** The camera in use: its id, "" for none. */
  get cameraId() {
    const track = this.#stream?.getVideoTracks()[0];
    return track?.getSettings().deviceId ?? "";
  }

  #clear() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.video.srcObject = null;
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = "";
    this.video.removeAttribute("src");
  }
}

/** All cameras as {id, label}; labels are empty until one was allowed. */
export async function cameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices
    .filter((device) => device.kind === "videoinput")
    .map((device, index) => ({
      id: device.deviceId,
      label: device.label || `Camera ${index + 1}`,
    }));
}

/** Calls back with the capture time of every new frame of a video. */
export function everyFrame(video, call) {
  if (video.requestVideoFrameCallback) {
    const next = (now, frame) => {
      call(frame.captureTime ?? now);
      video.requestVideoFrameCallback(next);
    };
    video.requestVideoFrameCallback(next);
  } else {
    setInterval(() => call(performance.now()), 33);
  }
}
