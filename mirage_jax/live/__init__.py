"""Live streams: an engine that knows no network, and a server that brings a browser."""
