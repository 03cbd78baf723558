"""The public stages: their columns, and the bulk call that each makes.

A stage is an iterator pandas UDF over its input column only, so all other columns stay in the JVM and can
have any type. The UDF is declared nondeterministic. Otherwise Spark would run it a second time if a filter
uses its result.
"""

# ruff: noqa: N802, N803, N815
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, cast, get_args

import pandas as pd
from pyspark.ml import Transformer
from pyspark.ml.param import TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql.functions import col
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import ArrayType, DataType, FloatType, StringType, StructField, StructType

from tritonclip._bulk import IMAGES_PER_REQUEST, TEXTS_PER_REQUEST
from tritonclip._calls.checks import DEFAULT_HYPOTHESIS_TEMPLATE, check_labels, check_template, check_top_k
from tritonclip._settings import Preprocess
from tritonclip.errors import InvalidInputError
from tritonclip.spark._inputs import InputForm, image_form, text_form
from tritonclip.spark._params import StageParams, one_of, param
from tritonclip.spark._worker import BulkCall, RequestSettings, answer_batches

C = TypeVar("C", bound="ClipZeroShotClassifier")
I = TypeVar("I", bound="_ImageStage")  # noqa: E741
PACKAGE = "tritonclip.spark"  # module in saved stages; independent of the private module of the class
SCORES = ArrayType(StructType([StructField("label", StringType()), StructField("score", FloatType())]))
EMBEDDING = ArrayType(FloatType())


class OutputColumn(NamedTuple):
    """A column that a stage adds.

    Attributes:
        name: Name of the column.
        type: Type of the column.
        extract: Function that extracts the value of a row from the client's answer.
    """

    name: str
    type: DataType
    extract: Callable[[Any], Any]


def _check_top_k(value: Any) -> int:
    return 0 if value == 0 and not isinstance(value, bool) else check_top_k(value) or 0


class _ClipStage(StageParams, Transformer, DefaultParamsReadable[Any], DefaultParamsWritable):
    """Base of the stages: one pass over the input column."""

    _form_of: Callable[[DataType, str], InputForm]

    def _bulk_call(self, settings: RequestSettings) -> BulkCall:
        """Return the bulk call. It is pickled for the workers, so it must not refer to the stage."""
        raise NotImplementedError

    def _output_columns(self) -> dict[str, OutputColumn]:
        """Return the columns that the stage adds, except the error column, by field of the UDF's struct."""
        raise NotImplementedError

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_params()
        source = self.getInputCol()
        form = type(self)._form_of(dataset.select(source).schema[0].dataType, source)
        settings, outputs = self._request_settings(), self._output_columns()
        bulk_call = self._bulk_call(settings)
        extractors = {field: output.extract for field, output in outputs.items()}

        def answer(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
            return answer_batches(batches, form, settings, bulk_call, extractors)

        fields = [StructField(field, output.type) for field, output in outputs.items()]
        udf: Any = pandas_udf  # its type overloads lack iterators of DataFrames
        ask = udf(answer, StructType([*fields, StructField("error", StringType())])).asNondeterministic()
        columns = {output.name: col(self.uid)[field] for field, output in outputs.items()}
        columns |= {self.getErrorCol(): col(self.uid)["error"]} if self.getOnError() == "null" else {}
        self._check_names(dataset)
        answered = dataset.withColumn(self.uid, ask(col(source)))
        return answered.withColumns(columns).drop(self.uid)

    def _check_names(self, dataset: DataFrame) -> None:
        """Reject a new column whose name is taken. Spark's column names are case-insensitive."""
        names = [output.name for output in self._output_columns().values()]
        names += [self.getErrorCol()] if self.getOnError() == "null" else []
        seen = {name.casefold() for name in dataset.columns}
        for name in names:
            if name.casefold() in seen:
                raise InvalidInputError(
                    f"column {name!r} already exists; choose another name for the new column"
                )
            seen.add(name.casefold())


class _ImageStage(_ClipStage):
    """Base of the stages that read images."""

    _form_of = staticmethod(image_form)
    preprocess = param(
        "preprocess",
        "side that decodes and resizes: 'server', or 'client' for the executors",
        one_of("preprocess", get_args(Preprocess)),
    )

    def _set_defaults(self) -> None:
        self._setDefault(inputCol="image", batchSize=IMAGES_PER_REQUEST, preprocess="server")

    def _request_settings(self) -> RequestSettings:
        settings = super()._request_settings()
        return replace(settings, client=replace(settings.client, preprocess=self.getPreprocess()))

    def setPreprocess(self: I, value: str) -> I:
        """Set the side that decodes and resizes: `server`, or `client` for the executors."""
        return self.setParams(preprocess=value)

    def getPreprocess(self) -> str:
        """Return the side that decodes and resizes, `server` or `client`."""
        return cast(str, self.getOrDefault(self.preprocess))


class ClipZeroShotClassifier(_ImageStage):
    """Zero-shot classifier that ranks candidate labels for each image.

    The input column holds structs of `spark.read.format("image")`, file contents (binary), or paths or URLs
    (string). The stage adds `outputCol` (string), the best label, and `scoresCol`
    (array<struct<label, score>>), the labels with their scores, best first. If `onError` is `null`, it also
    adds `errorCol` (string). Set the parameters with keyword arguments or setters.
    """

    __module__ = PACKAGE

    candidateLabels = param(
        "candidateLabels", "labels to rank, as a list, a JSON array or a comma-separated string", check_labels
    )
    hypothesisTemplate = param("hypothesisTemplate", "sentence with one {} for the label", check_template)
    topK = param("topK", "number of best labels to keep in scoresCol; 0 for all", _check_top_k)
    scoresCol = param(
        "scoresCol",
        "name of the scores column; '' for outputCol with the suffix _scores",
        TypeConverters.toString,
    )

    def _set_defaults(self) -> None:
        super()._set_defaults()
        self._setDefault(
            outputCol="label", hypothesisTemplate=DEFAULT_HYPOTHESIS_TEMPLATE, topK=0, scoresCol=""
        )

    def _check_params(self) -> None:
        super()._check_params()
        if not self.isDefined(self.candidateLabels):
            raise InvalidInputError("candidateLabels: not set; set the labels to rank")

    def _bulk_call(self, settings: RequestSettings) -> BulkCall:
        labels, template, top_k = self.getCandidateLabels(), self.getHypothesisTemplate(), self.getTopK()
        return lambda client, images: client.classify_many(
            images, labels, hypothesis_template=template, top_k=top_k or None, **settings.options
        )

    def _output_columns(self) -> dict[str, OutputColumn]:
        return {
            "label": OutputColumn(self.getOutputCol(), StringType(), lambda ranked: ranked[0]["label"]),
            "scores": OutputColumn(self.getScoresCol(), SCORES, lambda ranked: ranked),
        }

    def setCandidateLabels(self: C, value: list[str]) -> C:
        """Set the labels to rank."""
        return self.setParams(candidateLabels=value)

    def getCandidateLabels(self) -> list[str]:
        """Return the labels to rank."""
        return cast(list[str], self.getOrDefault(self.candidateLabels))

    def setHypothesisTemplate(self: C, value: str) -> C:
        """Set the sentence whose `{}` is replaced by each label; '{}' uses the labels as they are."""
        return self.setParams(hypothesisTemplate=value)

    def getHypothesisTemplate(self) -> str:
        """Return the sentence whose `{}` is replaced by each label."""
        return cast(str, self.getOrDefault(self.hypothesisTemplate))

    def setTopK(self: C, value: int) -> C:
        """Set the number of best labels to keep in the scores column; 0 for all."""
        return self.setParams(topK=value)

    def getTopK(self) -> int:
        """Return the number of best labels in the scores column; 0 for all."""
        return cast(int, self.getOrDefault(self.topK))

    def setScoresCol(self: C, value: str) -> C:
        """Set the name of the scores column."""
        return self.setParams(scoresCol=value)

    def getScoresCol(self) -> str:
        """Return the name of the scores column, by default `outputCol` with the suffix `_scores`."""
        return self.getOrDefault(self.scoresCol) or f"{self.getOutputCol()}_scores"


class ClipImageEmbedder(_ImageStage):
    """Image embedder that adds `outputCol` (array<float>, unit L2 norm).

    It reads the same columns as `ClipZeroShotClassifier`, and also adds `errorCol` if `onError` is `null`.
    """

    __module__ = PACKAGE

    def _set_defaults(self) -> None:
        super()._set_defaults()
        self._setDefault(outputCol="embedding")

    def _bulk_call(self, settings: RequestSettings) -> BulkCall:
        return lambda client, images: client.embed_images_many(images, **settings.options)

    def _output_columns(self) -> dict[str, OutputColumn]:
        return {"embedding": OutputColumn(self.getOutputCol(), EMBEDDING, lambda array: array)}


class ClipTextEmbedder(_ClipStage):
    """Text embedder that adds `outputCol` (array<float>, unit L2 norm).

    It embeds texts without a template, and also adds `errorCol` if `onError` is `null`.
    """

    __module__ = PACKAGE
    _form_of = staticmethod(text_form)

    def _set_defaults(self) -> None:
        self._setDefault(inputCol="text", outputCol="embedding", batchSize=TEXTS_PER_REQUEST)

    def _bulk_call(self, settings: RequestSettings) -> BulkCall:
        return lambda client, texts: client.embed_texts_many(texts, **settings.options)

    def _output_columns(self) -> dict[str, OutputColumn]:
        return {"embedding": OutputColumn(self.getOutputCol(), EMBEDDING, lambda array: array)}
