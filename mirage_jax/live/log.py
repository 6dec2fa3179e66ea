"""What the server tells of itself on stderr, for people or for machines."""

import datetime
import json
import logging

LOG_FORMS = ("text", "json")


class JsonLines(logging.Formatter):
    """An object a line: time (UTC), level, part, event, and error where one was."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        told = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "part": record.module,
            "event": record.getMessage(),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_to_stderr(form: str) -> None:
    """Shows what happens from now on, in one of LOG_FORMS."""
    # Sources and sinks of mirage_jax.video are the server's too.
    log = logging.getLogger("mirage_jax")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    plain = logging.Formatter("%(asctime)s %(message)s")
    log.handlers[0].setFormatter(JsonLines() if form == "json" else plain)
    log.setLevel(logging.INFO)
    log.propagate = False
    for name in ("aioice", "aiortc"):  # they tell the addresses of clients
        logging.getLogger(name).setLevel(logging.WARNING)
