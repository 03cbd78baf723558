from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pictures import encode, noise
from tests.system.spark.spark_pictures import assert_same
from tritonclip import Client
from tritonclip.spark import ClipZeroShotClassifier


def test_other_columns_pass_whatever_their_types(spark: Any, classifier: ClipZeroShotClassifier) -> None:
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


def test_no_server_is_asked_where_there_is_nothing_to_ask(spark: Any) -> None:
    stage = ClipZeroShotClassifier(url="localhost:1", candidateLabels=["a"], timeoutSeconds=5)
    empty = spark.createDataFrame([], "image binary")
    assert stage.transform(empty).collect() == []
    nulls = spark.createDataFrame([(None,)] * 5, "image binary").repartition(4)
    rows = stage.transform(nulls).collect()
    assert [(row.label, row.label_scores) for row in rows] == [(None, None)] * 5


def test_empty_partitions_beside_full_ones(spark: Any, classifier: ClipZeroShotClassifier) -> None:
    content = encode(noise(30, 30), "PNG")
    table = spark.createDataFrame([(number, content) for number in range(3)], "id int, image binary")
    rows = classifier.transform(table.repartition(8, "id")).collect()
    assert sorted(row.id for row in rows) == [0, 1, 2]
    assert all(row.label for row in rows)


BAD = {"no image": b"no image", "empty": b"", "cut": encode(noise(200, 200), "PNG")[:3000]}


def test_bad_rows_are_null_and_say_why(
    spark: Any, client: Client, classifier: ClipZeroShotClassifier, labels: list[str]
) -> None:
    good = encode(noise(60, 60), "PNG")
    contents = {"first": good, **BAD, "null": None, "last": good}
    table = spark.createDataFrame(list(contents.items()), "name string, image binary").coalesce(1)
    rows = {row.name: row for row in classifier.setOnError("null").transform(table).collect()}
    assert list(rows) == list(contents)
    expected = client.classify(good, labels)
    for name in ("first", "last"):
        assert_same(rows[name].label, rows[name].label_scores, expected)
        assert rows[name].label_error is None
    for name in BAD:
        assert (rows[name].label, rows[name].label_scores) == (None, None)
        assert re.match("image(:| is| cannot)", rows[name].label_error), rows[name].label_error
    assert rows["null"].label is None and rows["null"].label_error is None


def test_a_bad_row_fails_the_job_by_name(
    spark: Any, classifier: ClipZeroShotClassifier, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    table = spark.createDataFrame([(str(tmp_path / "broken.jpg"),)], "image string")
    with pytest.raises(
        Exception, match=r"InvalidInputError: /.*broken\.jpg: image is not .*Correct this image, or"
    ):
        classifier.transform(table).collect()


def test_images_that_spark_could_not_decode(
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
        ((2, 2, 3, 16, bytes(11)), "11 bytes of data; 2 x 2 pixels of 3 channels have 12"),
        ((2, 2, 3, 21, bytes(24)), "mode 21 with 3 channels"),
        ((2, None, 3, 16, bytes(12)), "a field of the image struct is null"),
    ],
)
def test_image_structs_that_do_not_fit(
    spark: Any, classifier: ClipZeroShotClassifier, fields: tuple[Any, ...], complaint: str
) -> None:
    of = "struct<origin string, height int, width int, nChannels int, mode int, data binary>"
    table = spark.createDataFrame([(("here", *fields),), (None,)], f"image {of}").coalesce(1)
    rows = classifier.setOnError("null").transform(table).collect()
    assert complaint in rows[0].label_error and rows[0].label_error.startswith("here: ")
    assert rows[1].label is None and rows[1].label_error is None


def test_paths_that_only_spark_can_read(spark: Any, classifier: ClipZeroShotClassifier) -> None:
    table = spark.createDataFrame([("s3a://bucket/a.jpg",)], "image string")
    row = classifier.setOnError("null").setErrorCol("why").transform(table).collect()[0]
    assert "take the column content" in row.why


def test_a_server_that_is_down_is_named(spark: Any) -> None:
    stage = ClipZeroShotClassifier(
        url="127.0.0.1:1", candidateLabels=["a"], timeoutSeconds=1, patienceSeconds=0.1, onError="null"
    )
    table = spark.createDataFrame([(encode(noise(9, 9), "PNG"),)], "image binary")
    with pytest.raises(Exception, match=r"ServerUnavailableError.*grpc://127\.0\.0\.1:1"):
        stage.transform(table).collect()
