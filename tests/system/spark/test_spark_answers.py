"""Answers of the stages equal those of the client, for every form of input."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pictures import encode, noise, telling_images
from tests.system.spark.spark_pictures import assert_same
from tritonclip import Client
from tritonclip.spark import ClipImageEmbedder, ClipTextEmbedder, ClipZeroShotClassifier
from tritonclip_server.serving.launcher import EmbeddedTriton


def test_file_contents_are_classified_like_by_the_client(
    spark: Any, client: Client, classifier: ClipZeroShotClassifier, images: Path, labels: list[str]
) -> None:
    table = spark.read.format("binaryFile").option("pathGlobFilter", "*.[jpw]*[gp]").load(str(images))
    rows = classifier.setInputCol("content").transform(table).collect()
    assert len(rows) == 9
    expected = json.loads((images / "labels.json").read_text("utf-8"))["expected"]
    for row in rows:
        assert row.label == expected[Path(row.path).name]
        assert_same(row.label, row.label_scores, client.classify(bytes(row.content), labels))


def test_every_kind_of_file_matches_the_client(
    spark: Any, client: Client, classifier: ClipZeroShotClassifier, labels: list[str]
) -> None:
    files = telling_images()
    table = spark.createDataFrame(list(files.items()), "name string, image binary").repartition(3)
    rows = classifier.transform(table).collect()
    assert {row.name for row in rows} == set(files)
    answers = dict(zip(files, client.classify_many(files.values(), labels), strict=True))
    for row in rows:
        assert_same(row.label, row.label_scores, answers[row.name])


def test_image_structs_of_all_modes_match_the_client(
    spark: Any, client: Client, classifier: ClipZeroShotClassifier, labels: list[str], tmp_path: Path
) -> None:
    pictures = {
        "grey.png": noise(70, 50).convert("L"),
        "colour.png": noise(90, 40),
        "alpha.png": noise(50, 60),
    }
    pictures["alpha.png"].putalpha(Image.linear_gradient("L").resize((50, 60)))
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    table = spark.read.format("image").load(str(tmp_path))
    rows = classifier.transform(table).collect()
    assert {row.image.mode for row in rows} == {0, 16, 24}
    for row in rows:
        assert_same(
            row.label, row.label_scores, client.classify(tmp_path / Path(row.image.origin).name, labels)
        )


@pytest.mark.parametrize("preprocess", ["server", "client"])
def test_paths_in_spark_notation_and_urls_match_the_client(
    spark: Any,
    client: Client,
    classifier: ClipZeroShotClassifier,
    labels: list[str],
    tmp_path: Path,
    preprocess: str,
) -> None:
    path = tmp_path / "ein Bild, 100%.png"
    noise(60, 60).save(path)
    table = spark.createDataFrame([(str(path),)], "image string")
    table = table.unionAll(spark.read.format("binaryFile").load(str(tmp_path)).select("path"))
    table = table.unionAll(
        spark.read.format("binaryFile").load(str(tmp_path)).selectExpr("input_file_name()")
    )
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    table = table.unionAll(spark.createDataFrame([(url,)], "image string"))
    rows = classifier.setPreprocess(preprocess).transform(table).collect()
    assert len({row.image for row in rows}) == 4
    for row in rows:
        assert_same(row.label, row.label_scores, client.classify(path, labels))


def test_embeddings_match_the_client(spark: Any, server: EmbeddedTriton, client: Client) -> None:
    files = [encode(noise(60, 40, seed), "PNG") for seed in range(5)]
    texts = ["a red circle", "日本語のラベル", "🐈 naïve", "a"]
    image_table = spark.createDataFrame([(one,) for one in files], "image binary")
    text_table = spark.createDataFrame([(one,) for one in texts], "text string")
    seen = ClipImageEmbedder(url=server.grpc_url).transform(image_table).collect()
    read = ClipTextEmbedder(url=server.grpc_url).transform(text_table).collect()
    for rows, expected in ((seen, client.embed_images(files)), (read, client.embed_texts(texts))):
        found = np.array([row.embedding for row in rows], dtype=np.float32)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_labels_in_any_script_are_returned_unchanged(
    spark: Any, server: EmbeddedTriton, client: Client
) -> None:
    labels = ["ein rotes Dreieck", "赤い円", "🔴", "e\u0301", "\u00e9"]
    content = encode(noise(40, 40), "PNG")
    table = spark.createDataFrame([(content,)], "image binary")
    stage = ClipZeroShotClassifier(
        url=server.grpc_url, candidateLabels=labels, hypothesisTemplate="{}", topK=3, outputCol="étiquette"
    )
    row = stage.transform(table).collect()[0]
    expected = client.classify(content, labels, hypothesis_template="{}", top_k=3)
    assert [one.label for one in row["étiquette_scores"]] == [one["label"] for one in expected]
    assert row["étiquette"] == expected[0]["label"]


def test_each_of_many_rows_gets_its_own_answer_once(
    spark: Any, client: Client, server: EmbeddedTriton
) -> None:
    texts = [f"picture {number}" if number % 7 else None for number in range(600)]
    table = spark.createDataFrame(
        [(number, text) for number, text in enumerate(texts)], "id int, text string"
    )
    rows = ClipTextEmbedder(url=server.grpc_url, batchSize=64).transform(table.repartition(2)).collect()
    assert sorted(row.id for row in rows) == list(range(600))
    expected = client.embed_texts_many(text for text in texts if text)
    by_id = dict(zip((number for number, text in enumerate(texts) if text), expected, strict=True))
    for row in rows:
        assert (row.embedding is None) == (row.text is None)
        if row.text is not None:
            np.testing.assert_allclose(row.embedding, by_id[row.id], atol=1e-6)


def test_tasks_of_a_process_share_one_client(spark: Any, server: EmbeddedTriton) -> None:
    url = server.grpc_url
    stage = ClipTextEmbedder(url=url)
    table = spark.createDataFrame([(f"text {number}",) for number in range(40)], "text string").repartition(8)
    stage.transform(table).collect()

    def clients_made(batches: Any) -> Any:  # runs in a worker: how many clients a stage would create there
        import pandas as pd

        from tritonclip.spark import _worker

        for batch in batches:
            before = _worker._client.cache_info().misses
            _worker._client(_worker.ClientSettings(url=url, api_key_env="TRITONCLIP_API_KEY"))
            yield pd.DataFrame({"made": [_worker._client.cache_info().misses - before] * len(batch)})

    made = table.mapInPandas(clients_made, "made int").collect()
    assert [row.made for row in made] == [0] * 40


def test_filter_on_the_answer_runs_the_stage_once(
    spark: Any, client: Client, classifier: ClipZeroShotClassifier
) -> None:
    content = encode(noise(30, 30), "PNG")
    table = spark.createDataFrame([(content,)] * 40, "image binary").coalesce(1)
    answered = classifier.transform(table)
    plan = answered.where("label IS NOT NULL")._jdf.queryExecution().executedPlan().toString()
    assert plan.count("ArrowEvalPython") == 1
    assert answered.where("label IS NOT NULL").count() == 40
