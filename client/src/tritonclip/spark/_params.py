"""The parameters that all stages share, each checked on the driver when it is set, loaded, and used.

The names are those of pyspark.ml, not of this package.
"""

# ruff: noqa: N802, N803, N815
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol

from tritonclip._bulk import CONCURRENCY, MAX_BATCH_SIZE, MAX_CONCURRENCY, PATIENCE_S
from tritonclip._settings import (
    DEFAULT_TIMEOUT_S,
    ENV_API_KEY,
    Settings,
    check_seconds,
    check_whole,
)
from tritonclip.errors import InvalidInputError
from tritonclip.spark._worker import Run, Server

S = TypeVar("S", bound="StageParams")
ON_ERROR = ("null", "raise")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def param(name: str, doc: str, check: Callable[[Any], Any]) -> Param[Any]:
    """A parameter of a stage, whose values `check` gives back in their plain form or refuses."""

    def named(value: Any) -> Any:
        try:
            return check(value)
        except InvalidInputError as error:  # of a check that knows the client's name for it
            if name not in error.message:
                error.message = f"{name}: {error.message}"
            raise

    return Param(Params._dummy(), name, doc, typeConverter=named)


def one_of(name: str, allowed: tuple[str, ...]) -> Callable[[Any], str]:
    """A check for one of a few words."""

    def check(value: Any) -> str:
        if value not in allowed:
            raise InvalidInputError(f"{name} {value!r}: expected {' or '.join(map(repr, allowed))}")
        return cast(str, value)

    return check


def _check_url(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"url: expected a string as 'host:port', got {type(value).__name__}")
    if value:
        Settings.from_env(value, environ={})
    return value


def _check_variable(value: Any) -> str:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):  # not shown: it may be a key
        raise InvalidInputError(
            "apiKeyEnv: expected the name of an environment variable of the executors, letters, digits and "
            "'_'; never the key itself, which would be saved with the stage"
        )
    return value


class StageParams(HasInputCol, HasOutputCol):
    """What every stage takes: columns, the server, how it is asked, what becomes of bad rows."""

    url = param("url", "server as the client takes it; '': TRITONCLIP_URL of the executors", _check_url)
    apiKeyEnv = param("apiKeyEnv", "variable of the executors that holds the API key", _check_variable)
    timeoutSeconds = param(
        "timeoutSeconds",
        "deadline of a request, its retries included",
        lambda value: check_seconds("timeoutSeconds", value),
    )
    patienceSeconds = param(
        "patienceSeconds",
        "how long a request is tried again while the server is unavailable",
        lambda value: check_seconds("patienceSeconds", value),
    )
    batchSize = param(
        "batchSize", "rows a request", lambda value: check_whole("batchSize", value, MAX_BATCH_SIZE)
    )
    concurrency = param(
        "concurrency",
        "requests in flight of each task",
        lambda value: check_whole("concurrency", value, MAX_CONCURRENCY),
    )
    onError = param(
        "onError", "bad rows: 'raise', or 'null' and an error column", one_of("onError", ON_ERROR)
    )
    errorCol = param("errorCol", "error column name; '': outputCol and _error", TypeConverters.toString)

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._setDefault(
            url="",
            apiKeyEnv=ENV_API_KEY,
            timeoutSeconds=DEFAULT_TIMEOUT_S,
            patienceSeconds=PATIENCE_S,
            concurrency=CONCURRENCY,
            onError="raise",
            errorCol="",
        )
        self._set_defaults()
        self.setParams(**params)

    def _set_defaults(self) -> None:
        """Defaults of the stage's own."""

    def setParams(self: S, **params: Any) -> S:
        """Set any parameters by their names; TypeError for a name that there is not."""
        for name in params:
            if not self.hasParam(name):
                known = ", ".join(sorted(one.name for one in self.params))
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}; it has {known}")
        self._set(**params)
        return self

    def setInputCol(self: S, value: str) -> S:
        """Set the column to read."""
        return self.setParams(inputCol=value)

    def setOutputCol(self: S, value: str) -> S:
        """Set the column to add."""
        return self.setParams(outputCol=value)

    def setUrl(self: S, value: str) -> S:
        """Set the server: `host:port`, with a scheme, or several with commas, as the executors reach it."""
        return self.setParams(url=value)

    def getUrl(self) -> str:
        """The server; '' where each executor's own `TRITONCLIP_URL` says it."""
        return cast(str, self.getOrDefault(self.url))

    def setApiKeyEnv(self: S, value: str) -> S:
        """Set the name of the executors' environment variable that holds the API key; never the key."""
        return self.setParams(apiKeyEnv=value)

    def getApiKeyEnv(self) -> str:
        """The name of the variable that holds the API key."""
        return cast(str, self.getOrDefault(self.apiKeyEnv))

    def setTimeoutSeconds(self: S, value: float) -> S:
        """Set the deadline of a request, in seconds."""
        return self.setParams(timeoutSeconds=value)

    def getTimeoutSeconds(self) -> float:
        """The deadline of a request, in seconds."""
        return cast(float, self.getOrDefault(self.timeoutSeconds))

    def setPatienceSeconds(self: S, value: float) -> S:
        """Set how long a request is tried again while the server is unavailable, in seconds."""
        return self.setParams(patienceSeconds=value)

    def getPatienceSeconds(self) -> float:
        """How long a request is tried again while the server is unavailable, in seconds."""
        return cast(float, self.getOrDefault(self.patienceSeconds))

    def setBatchSize(self: S, value: int) -> S:
        """Set how many rows a request carries at most."""
        return self.setParams(batchSize=value)

    def getBatchSize(self) -> int:
        """Rows a request at most."""
        return cast(int, self.getOrDefault(self.batchSize))

    def setConcurrency(self: S, value: int) -> S:
        """Set how many requests each task keeps in flight."""
        return self.setParams(concurrency=value)

    def getConcurrency(self) -> int:
        """Requests in flight of each task."""
        return cast(int, self.getOrDefault(self.concurrency))

    def setOnError(self: S, value: str) -> S:
        """Set what a bad row does: `raise` fails the job, `null` gives nulls and the reason in `errorCol`."""
        return self.setParams(onError=value)

    def getOnError(self) -> str:
        """What a bad row does: `raise` or `null`."""
        return cast(str, self.getOrDefault(self.onError))

    def setErrorCol(self: S, value: str) -> S:
        """Set the column for the reasons, with `onError` of `null`."""
        return self.setParams(errorCol=value)

    def getErrorCol(self) -> str:
        """The column for the reasons: `outputCol` with `_error` unless set."""
        return self.getOrDefault(self.errorCol) or f"{self.getOutputCol()}_error"

    def _check_params(self) -> None:
        """Check all values again: `copy` and a ParamMap of `transform` go past the setters."""
        for one in self.params:
            if self.isDefined(one):
                one.typeConverter(self.getOrDefault(one))

    def _run(self) -> Run:
        """What the workers need to know."""
        return Run(
            server=Server(url=self.getUrl(), api_key_env=self.getApiKeyEnv()),
            timeout_s=self.getTimeoutSeconds(),
            patience_s=self.getPatienceSeconds(),
            batch_size=self.getBatchSize(),
            concurrency=self.getConcurrency(),
            fail_fast=self.getOnError() == "raise",
        )
