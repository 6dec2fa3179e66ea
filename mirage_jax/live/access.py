"""Who may connect: names of this machine, origins, the token; what a page may do."""

import hmac
import ipaddress
import socket
from collections.abc import Iterable

from yarl import URL


def content_policy(host: str, secure: bool) -> dict[str, str]:
    """Headers of every answer: nothing from elsewhere, no frames, camera only.

    Args:
      host: the checked Host header; older browsers want it named for WebSockets.
      secure: whether the connection is TLS.
    """
    socket_url = f"{'wss' if secure else 'ws'}://{host}"
    return {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; "
            "img-src 'self' blob: data:; media-src 'self' blob: mediastream:; "
            f"connect-src 'self' {socket_url}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }


class Access:
    """Checks of one server.

    Args:
      token: that clients must show; "" for none.
      names: host names by which browsers may call this machine, beside its addresses.
    """

    def __init__(self, token: str = "", names: Iterable[str] = ()):
        self._token = token.encode()
        own = ("localhost", socket.gethostname(), f"{socket.gethostname()}.local")
        self._names = {name.strip().lower() for name in (*own, *names) if name.strip()}

    def token_fits(self, token: str) -> bool:
        """Compares in a time that tells nothing; without a token everything fits."""
        if not self._token:
            return True
        return hmac.compare_digest(self._token, token.encode("utf-8", "replace"))

    def host_fits(self, host: str, address: str, port: int) -> bool:
        """Whether a Host header means this server.

        A page of somebody else whose name points here (DNS rebinding) fails.

        Args:
          host: the header.
          address, port: where this connection arrived.
        """
        if set(host) & set("@/?#\\"):  # a URL would read these as its own
            return False
        try:
            url = URL(f"http://{host}")
            name, named_port = (url.raw_host or "").lower(), url.explicit_port
        except ValueError:
            return False
        if named_port not in (port, None):
            return False
        return name in self._names or same_address(name, address)

    def origin_fits(self, origin: str | None, host: str, secure: bool) -> bool:
        """Whether a WebSocket comes from our own page, or from no page at all."""
        scheme = "https" if secure else "http"
        return origin is None or origin.lower() == f"{scheme}://{host}".lower()


def same_address(name: str, address: str) -> bool:
    """Whether a name is that IP address, however it is written."""
    try:
        one = ipaddress.ip_address(name.partition("%")[0])
        other = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return one == (getattr(other, "ipv4_mapped", None) or other) or one == other
