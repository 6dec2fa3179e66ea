r"""Live: camera to browser, restyled as you type.

python main.py --config configs/live.py

Opens a page on this machine. docs/live.md says how other machines may connect.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    c = config_dict.ConfigDict()
    c.kind = "live"
    # A shipped model's name or a folder with weights.
    c.model = "default"
    # What a stream looks like until somebody types.
    c.prompt = "a pencil drawing on paper"
    # How much of the style, 0 (the source) to 1, likewise.
    c.strength = 1.0
    # Size on a GPU and on a CPU: "512" (square) or height x width, "288x512".
    c.size = "512"
    c.cpu_size = "256"
    # "crop" fills the frame and cuts what stands over; "pad" adds black bars.
    c.fit = "crop"
    # Denoiser passes a frame: 1, 2 or 4, and up to how many a client may ask for.
    c.steps = 1
    c.most_steps = 4
    # What the frame cache keeps: "merged", "lagged", "clean", or "auto" (lagged, on
    # CPUs merged).
    c.commit = "auto"
    # "auto" (bfloat16, on CPUs float32), "bfloat16", "float32", "int8" or "float8"; 8
    # bits are those of the dense layers, on GPUs from Ampere and from Ada on.
    c.precision = "auto"
    c.seed = 0
    # Clients at a time on a GPU and on a CPU, each with a stream of its own. All seats
    # are computed in every step, whether somebody sits there or not.
    c.seats = 2
    c.cpu_seats = 1
    # Where to listen. Anything but this machine needs TLS, and clients a token.
    c.host = "127.0.0.1"
    c.port = 8765
    # Servers, one a GPU, on a Ray cluster: "local", one of this machine alone, "auto",
    # the one that this machine belongs to, or its address. The port is then that of a
    # door, which sends browsers on; the replicas take the free ones after it.
    c.replicas = 1
    c.cluster = "local"
    # What clients must show: 16 to 128 letters, digits, - or _, chosen at random; "": a
    # new one at every start, and none where only this machine can connect.
    c.token = ""
    # More names, comma-separated, by which browsers may call this machine.
    c.names = ""
    # How pages send and get pictures: "websocket" (a JPEG of every frame), "webrtc"
    # (video, with a WebSocket where that finds no way), or "auto": WebRTC for other
    # machines, where aiortc is installed.
    c.transport = "auto"
    # PEM files; without them one is made and kept, where TLS is needed.
    c.certificate = ""
    c.key = ""
    # Open the page in a browser.
    c.browser = True
    # What the server tells of itself: "text", or "json", an object a line.
    c.log = "text"
    # A stream of the server's own, which takes a seat and needs no page: "pattern",
    # "camera:0", "screen:640x480+0+0", an address (rtsp://, http://) or a video file.
    # The server ends with it, or after so many seconds of it; 0: not before.
    c.source = ""
    c.source_seconds = 0.0
    # With which it can be watched: 16 to 128 letters, digits, - or _, chosen at random;
    # "": a new one at every start.
    c.source_key = ""
    # Where the styled pictures go besides pages: of the server's own stream, else of
    # the first client that is there. A file (.mp4 or .mkv; an older one stays), an
    # address (rtmp://, srt://, udp://), and a camera that other programs can choose.
    c.record = ""
    c.push = ""
    c.virtual_camera = False
    # A folder into which clients may record on the server; "": they may not. For how
    # long at a time.
    c.recordings = ""
    c.recording_seconds = 3600.0
    # A frame that waited longer for the device is skipped. Where frames of more than
    # one step take longer, fewer steps are taken.
    c.deadline_ms = 200.0
    # A frame waits so long for those of other clients, to be styled together.
    c.gather_ms = 10.0
    # What a client sees whose camera sends nothing for a second: "hold", its last
    # picture, or "free", its stream going on from what it remembers.
    c.lost = "hold"
    # A client that sends no frame for so long is closed, or that stays so long; 0: no.
    c.idle_seconds = 60.0
    c.session_seconds = 0.0
    # Limits of what a client may send, and of open connections, viewers among them.
    c.connections = 16
    c.frame_bytes = 2 << 20
    c.frame_pixels = 1920 * 1080
    c.messages_per_second = 120.0
    c.prompt_characters = 500
    # Of the pictures that go back, 1 to 95.
    c.jpeg_quality = 85
    return c
