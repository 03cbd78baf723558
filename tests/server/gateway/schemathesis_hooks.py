"""What schemathesis leaves out here."""

import math

import schemathesis


@schemathesis.hook
def filter_case(context, case):
    """Forms of wrong types: every field of a form is text, so an object for a label is the label "{}"."""
    negative = case.meta is not None and case.meta.generation.mode.is_negative
    return not (negative and case.media_type == "multipart/form-data")


@schemathesis.hook
def before_call(context, case, kwargs):
    """Deadlines so short that the answer would rightly be 504."""
    for name, value in (case.headers or {}).items():
        if name.lower() == "x-timeout-s" and 0.1 <= _number(value) < 20:
            case.headers[name] = "20"


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
