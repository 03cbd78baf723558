"""Log output of the gateway and of uvicorn on standard error, as JSON or as text."""

from __future__ import annotations

import json
import logging
import sys

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from tritonclip._transport.tracing import current_ids

# Attributes that are not extra fields: logging's own, and uvicorn's coloured copy of the message.
OMITTED = [*RESERVED_ATTRS, "color_message"]


def configure_log(log_format: str) -> None:
    """Send logs of the gateway and of uvicorn, and warnings of other packages, to standard error.

    Args:
        log_format: `json` or `text`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if log_format == "text" else _json_formatter())
    handler.addFilter(_add_trace_ids)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("tritonclip", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


class TextFormatter(logging.Formatter):
    """Human-readable log lines: time, level, event, and extra fields as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Append the record's extra fields to the formatted message."""
        extra = {name: value for name, value in vars(record).items() if name not in OMITTED}
        fields = (f"{name}={json.dumps(value, default=str)}" for name, value in extra.items())
        return " ".join([super().formatMessage(record), *fields])


def _json_formatter() -> JsonFormatter:
    return JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        reserved_attrs=OMITTED,
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "message": "event"},
    )


def _add_trace_ids(record: logging.LogRecord) -> bool:
    vars(record).update(current_ids())
    return True
