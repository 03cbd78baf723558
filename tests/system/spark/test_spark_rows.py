"""Rows that cannot be answered, null rows, and columns that a stage does not touch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pictures import encode, noise
from tests.system.spark.spark_pictures import assert_same
from tritonclip import Client
from tritonclip.spark import ClipZeroShotClassifier


def test_other_columns_of_any_type_are_unchanged(spark: Any, classifier: ClipZeroShotClassifier) -> None:
    from pyspark.ml.linalg import Vectors

    content = encode(noise(30, 30), "PNG")
    table = spark.createDataFrame(
        [
            (content, Vectors.dense([1.0, 2.0]), {"a": 1}, 2**62 + 1),
            (None, Vectors.sparse(2, {}), None, None),
        ],
        ["image", "vector", "map", "number"],
    ).selectExpr("*", "interval '1' day AS span", "timestamp_ntz'2024-01-01 00:00:00' AS moment")
    before = table.collect()
    after = classifier.transform(table).select(*table.columns).collect()
    assert after == before


def test_empty_tables_and_null_rows_need_no_server(spark: Any) -> None:
    stage = ClipZeroShotClassifier(url="localhost:1", candidateLabels=["a"], timeoutSeconds=5)
    empty = spark.createDataFrame([], "image binary")
    assert stage.transform(empty).collect() == []
    nulls = spark.createDataFrame([(None,)] * 5, "image binary").repartition(4)
    rows = stage.transform(nulls).collect()
    assert [(row.label, row.label_scores) for row in rows] == [(None, None)] * 5


def test_empty_partitions_lose_no_rows(spark: Any, classifier: ClipZeroShotClassifier) -> None:
    content = encode(noise(30, 30), "PNG")
    table = spark.createDataFrame([(number, content) for number in range(3)], "id int, image binary")
    rows = classifier.transform(table.repartition(8, "id")).collect()
    assert sorted(row.id for row in rows) == [0, 1, 2]
    assert all(row.label for row in rows)


DAMAGED = {"no image": b"no image", "empty": b"", "truncated": encode(noise(200, 200), "PNG")[:3000]}


def test_bad_rows_are_null_with_a_reason(
    spark: Any, client: Client, classifier: ClipZeroShotClassifier, labels: list[str]
) -> None:
    good = encode(noise(60, 60), "PNG")
    contents = {"first": good, **DAMAGED, "null": None, "last": good}
    table = spark.createDataFrame(list(contents.items()), "name string, image binary").coalesce(1)
    rows = {row.name: row for row in classifier.setOnError("null").transform(table).collect()}
    assert list(rows) == list(contents)
    expected = client.classify(good, labels)
    for name in ("first", "last"):
        assert_same(rows[name].label, rows[name].label_scores, expected)
        assert rows[name].label_error is None
    for name in DAMAGED:
        assert (rows[name].label, rows[name].label_scores) == (None, None)
        assert re.match("image(:| is| cannot)", rows[name].label_error), rows[name].label_error
    assert rows["null"].label is None and rows["null"].label_error is None


def test_bad_row_fails_the_job_and_is_named(
    spark: Any, classifier: ClipZeroShotClassifier, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    table = spark.createDataFrame([(str(tmp_path / "broken.jpg"),)], "image string")
    with pytest.raises(
        Exception, match=r"InvalidInputError: /.*broken\.jpg: image is not .*Correct this image, or"
    ):
        classifier.transform(table).collect()


def test_image_that_spark_could_not_decode_is_reported(
    spark: Any, classifier: ClipZeroShotClassifier, tmp_path: Path
) -> None:
    noise(20, 20).save(tmp_path / "unknown_to_java.webp")
    table = spark.read.format("image").load(str(tmp_path))
    row = classifier.setOnError("null").transform(table).collect()[0]
    assert row.label is None
    assert "unknown_to_java.webp: image: Spark could not decode it" in row.label_error


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ((2, 2, 3, 16, bytes(11)), "11 bytes of data; 2 x 2 pixels of 3 channels need 12"),
        ((2, 2, 3, 21, bytes(24)), "mode 21 with 3 channels"),
        ((2, None, 3, 16, bytes(12)), "a field of the image struct is null"),
    ],
)
def test_inconsistent_image_structs_are_reported(
    spark: Any, classifier: ClipZeroShotClassifier, fields: tuple[Any, ...], complaint: str
) -> None:
    fields_type = "struct<origin string, height int, width int, nChannels int, mode int, data binary>"
    table = spark.createDataFrame([(("here", *fields),), (None,)], f"image {fields_type}").coalesce(1)
    rows = classifier.setOnError("null").transform(table).collect()
    assert complaint in rows[0].label_error and rows[0].label_error.startswith("here: ")
    assert rows[1].label is None and rows[1].label_error is None


def test_path_that_only_spark_can_read_is_reported(spark: Any, classifier: ClipZeroShotClassifier) -> None:
    table = spark.createDataFrame([("s3a://bucket/a.jpg",)], "image string")
    row = classifier.setOnError("null").setErrorCol("why").transform(table).collect()[0]
    assert "use the column content" in row.why


def test_unreachable_server_fails_the_job_and_is_named(spark: Any) -> None:
    stage = ClipZeroShotClassifier(
        url="127.0.0.1:1", candidateLabels=["a"], timeoutSeconds=60, patienceSeconds=0.1, onError="null"
    )
    table = spark.createDataFrame([(encode(noise(9, 9), "PNG"),)], "image binary")
    with pytest.raises(Exception, match=r"ServerUnavailableError.*grpc://127\.0\.0\.1:1"):
        stage.transform(table).collect()
