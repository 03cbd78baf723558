"""Parameters that all stages share. Each is checked on the driver when it is set, loaded or used.

Their names follow pyspark.ml, not this package.
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
from tritonclip.spark._worker import ClientSettings, RequestSettings

S = TypeVar("S", bound="StageParams")
ON_ERROR = ("null", "raise")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IDENTITY = re.compile(r"(?:[0-9a-f]{64})?")


def param(name: str, doc: str, check: Callable[[Any], Any]) -> Param[Any]:
    """Define a parameter of a stage. `check` returns the normalised value or raises InvalidInputError."""

    def named_check(value: Any) -> Any:
        try:
            return check(value)
        except InvalidInputError as error:  # a check of the client uses the client's name
            if name not in error.message:
                error.message = f"{name}: {error.message}"
            raise

    return Param(Params._dummy(), name, doc, typeConverter=named_check)


def one_of(name: str, allowed: tuple[str, ...]) -> Callable[[Any], str]:
    """Return a check that accepts only the allowed words."""

    def check(value: Any) -> str:
        if value not in allowed:
            raise InvalidInputError(f"{name} {value!r}: expected {' or '.join(map(repr, allowed))}")
        return cast(str, value)

    return check


def _check_url(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"url: expected a string such as 'host:port', got {type(value).__name__}")
    if value:
        Settings.from_env(value, environ={})
    return value


def _check_variable(value: Any) -> str:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        raise InvalidInputError(  # without the value, which may be a key
            "apiKeyEnv: expected the name of an environment variable of the executors (letters, digits and "
            "'_'); do not give the key itself, because it would be saved with the stage"
        )
    return value


def _check_identity(value: Any) -> str:
    if not isinstance(value, str) or not _IDENTITY.fullmatch(value):
        raise InvalidInputError(
            "identity: expected the 64 hexadecimal digits that `tritonclip models` prints, or '' for any"
        )
    return value


class StageParams(HasInputCol, HasOutputCol):
    """Parameters of every stage: columns, server, requests, and the handling of bad rows."""

    url = param("url", "address of the server; '' for TRITONCLIP_URL of the executors", _check_url)
    apiKeyEnv = param(
        "apiKeyEnv", "environment variable of the executors that holds the API key", _check_variable
    )
    identity = param(
        "identity", "identity of the model that must answer, or '' for any model", _check_identity
    )
    timeoutSeconds = param(
        "timeoutSeconds",
        "deadline of a request including its retries, in seconds",
        lambda value: check_seconds("timeoutSeconds", value),
    )
    patienceSeconds = param(
        "patienceSeconds",
        "time to retry a request while the server is unavailable, in seconds",
        lambda value: check_seconds("patienceSeconds", value),
    )
    batchSize = param(
        "batchSize", "rows per request", lambda value: check_whole("batchSize", value, MAX_BATCH_SIZE)
    )
    concurrency = param(
        "concurrency",
        "requests in flight per task",
        lambda value: check_whole("concurrency", value, MAX_CONCURRENCY),
    )
    onError = param(
        "onError",
        "handling of bad rows: 'raise', or 'null' with an error column",
        one_of("onError", ON_ERROR),
    )
    errorCol = param(
        "errorCol",
        "name of the error column; '' for outputCol with the suffix _error",
        TypeConverters.toString,
    )

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._setDefault(
            url="",
            apiKeyEnv=ENV_API_KEY,
            identity="",
            timeoutSeconds=DEFAULT_TIMEOUT_S,
            patienceSeconds=PATIENCE_S,
            concurrency=CONCURRENCY,
            onError="raise",
            errorCol="",
        )
        self._set_defaults()
        self.setParams(**params)

    def _set_defaults(self) -> None:
        """Set the defaults that only this stage has."""

    def setParams(self: S, **params: Any) -> S:
        """Set parameters by name.

        Raises:
            TypeError: The stage has no parameter of that name.
        """
        for name in params:
            if not self.hasParam(name):
                known = ", ".join(sorted(one.name for one in self.params))
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}; it has {known}")
        self._set(**params)
        return self

    def setInputCol(self: S, value: str) -> S:
        """Set the name of the input column."""
        return self.setParams(inputCol=value)

    def setOutputCol(self: S, value: str) -> S:
        """Set the name of the output column."""
        return self.setParams(outputCol=value)

    def setUrl(self: S, value: str) -> S:
        """Set the server's address as seen by the executors: `host:port`, a URL, or several with commas."""
        return self.setParams(url=value)

    def getUrl(self) -> str:
        """Return the server's address; '' if the executors take it from `TRITONCLIP_URL`."""
        return cast(str, self.getOrDefault(self.url))

    def setApiKeyEnv(self: S, value: str) -> S:
        """Set the name of the executors' environment variable with the API key, never the key itself."""
        return self.setParams(apiKeyEnv=value)

    def getApiKeyEnv(self) -> str:
        """Return the name of the environment variable that holds the API key."""
        return cast(str, self.getOrDefault(self.apiKeyEnv))

    def setIdentity(self: S, value: str) -> S:
        """Set the identity that the server's model must have, as `tritonclip models` prints it; '' for any.

        Each task checks it before and after its rows, so that a job never mixes answers of two models.
        """
        return self.setParams(identity=value)

    def getIdentity(self) -> str:
        """Return the identity that the server's model must have; '' for any."""
        return cast(str, self.getOrDefault(self.identity))

    def setTimeoutSeconds(self: S, value: float) -> S:
        """Set the deadline of a request, in seconds."""
        return self.setParams(timeoutSeconds=value)

    def getTimeoutSeconds(self) -> float:
        """Return the deadline of a request, in seconds."""
        return cast(float, self.getOrDefault(self.timeoutSeconds))

    def setPatienceSeconds(self: S, value: float) -> S:
        """Set the time to retry a request while the server is unavailable, in seconds."""
        return self.setParams(patienceSeconds=value)

    def getPatienceSeconds(self) -> float:
        """Return the time to retry a request while the server is unavailable, in seconds."""
        return cast(float, self.getOrDefault(self.patienceSeconds))

    def setBatchSize(self: S, value: int) -> S:
        """Set the maximum number of rows per request."""
        return self.setParams(batchSize=value)

    def getBatchSize(self) -> int:
        """Return the maximum number of rows per request."""
        return cast(int, self.getOrDefault(self.batchSize))

    def setConcurrency(self: S, value: int) -> S:
        """Set the number of requests that each task keeps in flight."""
        return self.setParams(concurrency=value)

    def getConcurrency(self) -> int:
        """Return the number of requests that each task keeps in flight."""
        return cast(int, self.getOrDefault(self.concurrency))

    def setOnError(self: S, value: str) -> S:
        """Set the handling of bad rows: `raise` fails the job, `null` puts the reason into `errorCol`."""
        return self.setParams(onError=value)

    def getOnError(self) -> str:
        """Return the handling of bad rows, `raise` or `null`."""
        return cast(str, self.getOrDefault(self.onError))

    def setErrorCol(self: S, value: str) -> S:
        """Set the name of the error column, which is added if `onError` is `null`."""
        return self.setParams(errorCol=value)

    def getErrorCol(self) -> str:
        """Return the name of the error column, by default `outputCol` with the suffix `_error`."""
        return self.getOrDefault(self.errorCol) or f"{self.getOutputCol()}_error"

    def _check_params(self) -> None:
        """Check all values again, because `copy` and a ParamMap of `transform` bypass the setters."""
        for one in self.params:
            if self.isDefined(one):
                one.typeConverter(self.getOrDefault(one))

    def _request_settings(self) -> RequestSettings:
        """Return the settings that the workers need."""
        return RequestSettings(
            client=ClientSettings(url=self.getUrl(), api_key_env=self.getApiKeyEnv()),
            identity=self.getIdentity(),
            timeout_s=self.getTimeoutSeconds(),
            patience_s=self.getPatienceSeconds(),
            batch_size=self.getBatchSize(),
            concurrency=self.getConcurrency(),
            fail_fast=self.getOnError() == "raise",
        )
