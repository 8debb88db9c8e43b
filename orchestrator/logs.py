"""What the daemon logs, for people or for machines: one line a tick that decided something, and one an intent."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
#: libraries that would say much of what nobody asked for
NOISY = ("apscheduler", "httpx", "httpcore", "alembic", "botocore", "boto3", "urllib3")

#: what every record has; the rest was given as `extra` where it was logged
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one line of JSON: `at` (UTC), `level`, `logger`, `message`, and its `extra` as further keys."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= {key: value for key, value in vars(record).items() if key not in _USUAL}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)


def to_stderr(*, as_json: bool) -> None:
    """Log there from now on, from INFO on."""
    channel = logging.StreamHandler()
    channel.setFormatter(JsonLines() if as_json else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[channel], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
