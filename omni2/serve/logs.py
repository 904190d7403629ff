"""Logs of one JSON object a line: sizes, times and ids, never what was said."""

import json
import logging
import time
import traceback
from contextvars import ContextVar
from typing import Any

logger = logging.getLogger("omni2.serve")
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class JsonFormatter(logging.Formatter):
    """A record as one JSON object; of an exception its type and place, for its words may quote a request."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "request_id": request_id.get(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= place(record.exc_info[1])
        line |= getattr(record, "fields", {})
        return json.dumps({key: value for key, value in line.items() if value is not None})


def place(error: BaseException) -> dict[str, object]:
    """The type of `error` and where it was raised, without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__name__, "stack": [f"{f.filename}:{f.lineno} {f.name}" for f in frames]}


def log_failure(error: BaseException) -> None:
    """Log an error that nobody expected."""
    logger.error("failure", extra={"fields": place(error)})


LOGGING = {  # for logging.config: JSON lines on stderr; of uvicorn warnings only, for its notes quote addresses
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonFormatter}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {"omni2.serve": {"level": "INFO"}},
}
