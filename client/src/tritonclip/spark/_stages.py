"""The stages: which columns they read and add, and the bulk call behind each.

A stage is one iterator pandas UDF over its input column alone: the other columns stay in the JVM, whatever
their types. The UDF is declared nondeterministic, or Spark would run it once more for a filter on its answer.
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

from tritonclip._bulk import IMAGES_A_REQUEST, TEXTS_A_REQUEST
from tritonclip._calls.checks import DEFAULT_HYPOTHESIS_TEMPLATE, check_labels, check_template, check_top_k
from tritonclip._settings import Preprocess
from tritonclip.errors import InvalidInputError
from tritonclip.spark._inputs import Kind, image_kind, text_kind
from tritonclip.spark._params import StageParams, one_of, param
from tritonclip.spark._worker import Many, Run, answer_batches

C = TypeVar("C", bound="ClipZeroShotClassifier")
I = TypeVar("I", bound="_OfImages")  # noqa: E741
PACKAGE = "tritonclip.spark"  # what a saved stage names, wherever its class stands
SCORES = ArrayType(StructType([StructField("label", StringType()), StructField("score", FloatType())]))
EMBEDDING = ArrayType(FloatType())


class Field(NamedTuple):
    """One column that a stage adds.

    Attributes:
        column: Its name.
        type: Its type.
        take: Gives it from what the client answers for a row.
    """

    column: str
    type: DataType
    take: Callable[[Any], Any]


def _check_top_k(value: Any) -> int:
    return 0 if value == 0 and not isinstance(value, bool) else check_top_k(value) or 0


class _Stage(StageParams, Transformer, DefaultParamsReadable[Any], DefaultParamsWritable):
    """What the stages share: one pass over the input column."""

    _kind_of: Callable[[DataType, str], Kind]

    def _many(self, run: Run) -> Many:
        """The bulk call. It is sent to the workers, so it must not hold the stage."""
        raise NotImplementedError

    def _fields(self) -> dict[str, Field]:
        """The columns that the stage adds, beside that for errors."""
        raise NotImplementedError

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._check_params()
        source = self.getInputCol()
        kind = type(self)._kind_of(dataset.select(source).schema[0].dataType, source)
        run, fields = self._run(), self._fields()
        many, takes = self._many(run), {name: field.take for name, field in fields.items()}

        def answer(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
            return answer_batches(batches, kind, run, many, takes)

        types = [StructField(name, field.type) for name, field in fields.items()]
        udf: Any = pandas_udf  # its overloads know no iterators of DataFrames
        ask = udf(answer, StructType([*types, StructField("error", StringType())])).asNondeterministic()
        columns = {field.column: col(self.uid)[name] for name, field in fields.items()}
        columns |= {self.getErrorCol(): col(self.uid)["error"]} if self.getOnError() == "null" else {}
        self._check_names(dataset)
        answered = dataset.withColumn(self.uid, ask(col(source)))
        return answered.withColumns(columns).drop(self.uid)

    def _check_names(self, dataset: DataFrame) -> None:
        """Refuse to replace a column, or to add one twice; Spark's names know no case."""
        names = [field.column for field in self._fields().values()]
        names += [self.getErrorCol()] if self.getOnError() == "null" else []
        seen = {name.casefold() for name in dataset.columns}
        for name in names:
            if name.casefold() in seen:
                raise InvalidInputError(f"there is a column {name!r} already; give the new one another name")
            seen.add(name.casefold())


class _OfImages(_Stage):
    """A stage that reads images."""

    _kind_of = staticmethod(image_kind)
    preprocess = param(
        "preprocess",
        "who decodes and resizes: 'server', or 'client' for the executors",
        one_of("preprocess", get_args(Preprocess)),
    )

    def _set_defaults(self) -> None:
        self._setDefault(inputCol="image", batchSize=IMAGES_A_REQUEST, preprocess="server")

    def _run(self) -> Run:
        run = super()._run()
        return replace(run, server=replace(run.server, preprocess=self.getPreprocess()))

    def setPreprocess(self: I, value: str) -> I:
        """Set who decodes and resizes: `server`, or `client`, which is the executors."""
        return self.setParams(preprocess=value)

    def getPreprocess(self) -> str:
        """Who decodes and resizes."""
        return cast(str, self.getOrDefault(self.preprocess))


class ClipZeroShotClassifier(_OfImages):
    """Ranks candidate labels for each image: the best one, and all of them with their scores.

    Reads the struct of `spark.read.format("image")`, a binary column of file contents, or a column of paths
    or URLs. Adds `outputCol` (string) and `scoresCol` (array<struct<label, score>>, best first), and with
    `onError` of `null`, `errorCol` (string). Parameters are keyword arguments, or have setters.
    """

    __module__ = PACKAGE

    candidateLabels = param(
        "candidateLabels", "labels to rank; a string is split at its commas", check_labels
    )
    hypothesisTemplate = param("hypothesisTemplate", "sentence with one {} for the label", check_template)
    topK = param("topK", "labels to keep in scoresCol, the best; 0 for all", _check_top_k)
    scoresCol = param("scoresCol", "scores column name; '': outputCol and _scores", TypeConverters.toString)

    def _set_defaults(self) -> None:
        super()._set_defaults()
        self._setDefault(
            outputCol="label", hypothesisTemplate=DEFAULT_HYPOTHESIS_TEMPLATE, topK=0, scoresCol=""
        )

    def _check_params(self) -> None:
        super()._check_params()
        if not self.isDefined(self.candidateLabels):
            raise InvalidInputError("candidateLabels: not set; give the labels to choose from")

    def _many(self, run: Run) -> Many:
        labels, template, top_k = self.getCandidateLabels(), self.getHypothesisTemplate(), self.getTopK()
        return lambda client, images: client.classify_many(
            images, labels, hypothesis_template=template, top_k=top_k or None, **run.options
        )

    def _fields(self) -> dict[str, Field]:
        return {
            "label": Field(self.getOutputCol(), StringType(), lambda ranked: ranked[0]["label"]),
            "scores": Field(self.getScoresCol(), SCORES, lambda ranked: ranked),
        }

    def setCandidateLabels(self: C, value: list[str]) -> C:
        """Set the labels to choose from."""
        return self.setParams(candidateLabels=value)

    def getCandidateLabels(self) -> list[str]:
        """The labels to choose from."""
        return cast(list[str], self.getOrDefault(self.candidateLabels))

    def setHypothesisTemplate(self: C, value: str) -> C:
        """Set the sentence each label is put into at its `{}`; '{}' for labels that are sentences."""
        return self.setParams(hypothesisTemplate=value)

    def getHypothesisTemplate(self) -> str:
        """The sentence each label is put into."""
        return cast(str, self.getOrDefault(self.hypothesisTemplate))

    def setTopK(self: C, value: int) -> C:
        """Set how many labels the scores column keeps, the best; 0 for all."""
        return self.setParams(topK=value)

    def getTopK(self) -> int:
        """How many labels the scores column keeps; 0 for all."""
        return cast(int, self.getOrDefault(self.topK))

    def setScoresCol(self: C, value: str) -> C:
        """Set the column for the scores."""
        return self.setParams(scoresCol=value)

    def getScoresCol(self) -> str:
        """The column for the scores: `outputCol` with `_scores` unless set."""
        return self.getOrDefault(self.scoresCol) or f"{self.getOutputCol()}_scores"


class ClipImageEmbedder(_OfImages):
    """Embeds each image: adds `outputCol` (array<float>, unit L2 norm), and `errorCol` where asked.

    Reads what `ClipZeroShotClassifier` reads.
    """

    __module__ = PACKAGE

    def _set_defaults(self) -> None:
        super()._set_defaults()
        self._setDefault(outputCol="embedding")

    def _many(self, run: Run) -> Many:
        return lambda client, images: client.embed_images_many(images, **run.options)

    def _fields(self) -> dict[str, Field]:
        return {"embedding": Field(self.getOutputCol(), EMBEDDING, lambda array: array)}


class ClipTextEmbedder(_Stage):
    """Embeds texts as they are: adds `outputCol` (array<float>, unit L2 norm), `errorCol` where asked for."""

    __module__ = PACKAGE
    _kind_of = staticmethod(text_kind)

    def _set_defaults(self) -> None:
        self._setDefault(inputCol="text", outputCol="embedding", batchSize=TEXTS_A_REQUEST)

    def _many(self, run: Run) -> Many:
        return lambda client, texts: client.embed_texts_many(texts, **run.options)

    def _fields(self) -> dict[str, Field]:
        return {"embedding": Field(self.getOutputCol(), EMBEDDING, lambda array: array)}
