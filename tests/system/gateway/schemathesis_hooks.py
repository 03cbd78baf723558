"""Cases that schemathesis must not generate."""

import math
from urllib.parse import unquote

import schemathesis


@schemathesis.hook
def filter_case(context, case):
    """Skip forms with wrong types, whose fields are text, so that an object is the valid label "{}".

    Also skip names with line breaks, which are no part of a path that starlette routes.
    """
    negative = case.meta is not None and case.meta.generation.mode.is_negative
    names = (case.path_parameters or {}).values()
    return not (
        (negative and case.media_type == "multipart/form-data")
        or any("\n" in unquote(str(name)) for name in names)
    )


@schemathesis.hook
def before_call(context, case, kwargs):
    """Raise deadlines that are so short that status 504 would be correct."""
    for name, value in (case.headers or {}).items():
        if name.lower() == "x-timeout-s" and 0.1 <= _number(value) < 20:
            case.headers[name] = "20"


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
