"""Parameters of the stages: checks, persistence, pipelines, and the API key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pictures import encode, noise
from tests.helpers.servers import run_python
from tritonclip import Client, InvalidInputError
from tritonclip.spark import ClipImageEmbedder, ClipTextEmbedder, ClipZeroShotClassifier
from tritonclip_server.serving.launcher import EmbeddedTriton

SECRET = "5fd0c3-a-key-that-must-be-nowhere"
CONTENT = encode(noise(30, 30), "PNG")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("url", 8001, "url: expected a string"),
        ("url", "ftp://here", "ftp"),
        ("url", "http://here:http", "port"),
        ("apiKeyEnv", "sk-123", "name of an environment variable"),
        ("identity", "0f" * 6, "identity: expected the 64 hexadecimal digits"),
        ("timeoutSeconds", 0, "timeoutSeconds: expected finite seconds above 0"),
        ("patienceSeconds", float("inf"), "patienceSeconds: expected finite seconds"),
        ("batchSize", 0, "batchSize: expected a whole number from 1 to 1024"),
        ("batchSize", 1.5, "batchSize: expected a whole number"),
        ("concurrency", 257, "concurrency: expected a whole number from 1 to 256"),
        ("onError", "ignore", "onError 'ignore': expected 'null' or 'raise'"),
        ("preprocess", "gpu", "preprocess 'gpu': expected 'server' or 'client'"),
        ("candidateLabels", [], "labels: the list is empty"),
        ("candidateLabels", ["a", " "], "label 1: it is blank"),
        ("candidateLabels", ["a", 3], "label 1: expected a string"),
        ("hypothesisTemplate", "no place", "expected exactly one plain {}"),
        ("topK", -1, "top_k: expected a whole number"),
        ("topK", True, "top_k: expected a whole number"),
    ],
)
def test_malformed_values_are_rejected_when_set(spark: Any, name: str, value: Any, complaint: str) -> None:
    stage = ClipZeroShotClassifier(candidateLabels=["a"])
    setter = getattr(stage, f"set{name[0].upper()}{name[1:]}")
    with pytest.raises(InvalidInputError) as rejected:
        setter(value)
    assert complaint in str(rejected.value)
    with pytest.raises(InvalidInputError):
        ClipZeroShotClassifier(**{name: value})
    with pytest.raises(ValueError, match=name):  # bypasses the setters, but fails on the driver
        stage.transform(spark.createDataFrame([(CONTENT,)], "image binary"), {getattr(stage, name): value})


def test_key_given_instead_of_its_variable_is_not_shown() -> None:
    with pytest.raises(InvalidInputError) as rejected:
        ClipTextEmbedder(apiKeyEnv=SECRET)
    assert SECRET not in str(rejected.value)


def test_unknown_parameter_error_lists_known_parameters() -> None:
    with pytest.raises(TypeError, match="no parameter 'label'; it has apiKeyEnv, batchSize, candidateLabels"):
        ClipZeroShotClassifier(label=["a"])


def test_every_parameter_has_setter_and_getter() -> None:
    values = {
        "inputCol": "a", "outputCol": "b", "url": "http://here:1", "apiKeyEnv": "KEY", "timeoutSeconds": 2.5,
        "identity": "0f" * 32,
        "patienceSeconds": 3.5, "batchSize": 4, "concurrency": 5, "onError": "null", "errorCol": "c",
        "preprocess": "client", "candidateLabels": ["d"], "hypothesisTemplate": "{}!", "topK": 1,
        "scoresCol": "e",
    }  # fmt: skip
    stage = ClipZeroShotClassifier()
    assert {one.name for one in stage.params} == set(values)
    for name, value in values.items():
        suffix = f"{name[0].upper()}{name[1:]}"
        assert getattr(stage, f"set{suffix}")(value) is stage
        assert getattr(stage, f"get{suffix}")() == value
        assert stage.explainParam(name)


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ("image int", "'image' is of type int: expected binary"),
        ("image struct<data: binary>", "is of type struct<data:binary>: expected binary"),
        ("image binary, LABEL string", "column 'label' already exists"),
        ("image binary, label_scores int", "column 'label_scores' already exists"),
        ("image binary, label_error int", "column 'label_error' already exists"),
    ],
)
def test_unsuitable_tables_are_rejected_before_any_job(spark: Any, schema: str, complaint: str) -> None:
    stage = ClipZeroShotClassifier(candidateLabels=["a"], onError="null")
    with pytest.raises(InvalidInputError, match=complaint):
        stage.transform(spark.createDataFrame([], schema))


def test_missing_settings_and_columns_are_reported_before_any_job(spark: Any) -> None:
    table = spark.createDataFrame([], "image binary")
    with pytest.raises(InvalidInputError, match="candidateLabels: not set"):
        ClipZeroShotClassifier().transform(table)
    with pytest.raises(Exception, match="UNRESOLVED_COLUMN.*picture"):
        ClipImageEmbedder(inputCol="picture").transform(table)
    with pytest.raises(InvalidInputError, match="'image' is of type binary: expected string"):
        ClipTextEmbedder(inputCol="image").transform(table)
    with pytest.raises(InvalidInputError, match="column 'label' already exists"):
        ClipZeroShotClassifier(candidateLabels=["a"], scoresCol="label").transform(table)


def test_saved_stages_load_and_contain_no_key(
    spark: Any, server: EmbeddedTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP_TOKEN", SECRET)
    stage = ClipZeroShotClassifier(
        url=server.grpc_url, apiKeyEnv="CLIP_TOKEN", candidateLabels=["a", "ü"], topK=1
    )
    stage.write().overwrite().save(str(tmp_path / "stage"))
    texts = [path.read_text("utf-8") for path in (tmp_path / "stage").rglob("part-*")]
    assert any('"class":"tritonclip.spark.ClipZeroShotClassifier"' in text.replace(" ", "") for text in texts)
    assert not any(SECRET in text for text in texts)
    loaded = ClipZeroShotClassifier.load(str(tmp_path / "stage"))
    assert {one.name: value for one, value in loaded.extractParamMap().items()} == {
        one.name: value for one, value in stage.extractParamMap().items()
    }


def test_loaded_pipeline_answers_like_the_saved_one(
    spark: Any, server: EmbeddedTriton, tmp_path: Path
) -> None:
    from pyspark.ml import Pipeline, PipelineModel
    from pyspark.ml.feature import SQLTransformer

    url = server.grpc_url
    table = spark.createDataFrame([(1, CONTENT)], "id int, picture binary")
    stages = [
        SQLTransformer(statement="SELECT *, concat('number ', id) AS text FROM __THIS__"),
        ClipZeroShotClassifier(url=url, inputCol="picture", candidateLabels=["a", "b"], onError="null"),
        ClipImageEmbedder(url=url, inputCol="picture", outputCol="seen", onError="null"),
        ClipTextEmbedder(url=url, outputCol="read"),
    ]
    model = Pipeline(stages=stages).fit(table)
    model.write().save(str(tmp_path / "model"))
    loaded = PipelineModel.load(str(tmp_path / "model"))
    saved_rows, loaded_rows = model.transform(table), loaded.transform(table)
    assert loaded_rows.schema == saved_rows.schema
    assert loaded_rows.columns == [
        "id", "picture", "text", "label", "label_scores", "label_error", "seen", "seen_error", "read",
    ]  # fmt: skip
    (one,), (other,) = saved_rows.collect(), loaded_rows.collect()
    assert other.label == one.label
    assert other.seen == pytest.approx(one.seen, abs=1e-6)
    assert other.read == pytest.approx(one.read, abs=1e-6)


def test_key_is_read_from_the_executors_environment(spark: Any, server: EmbeddedTriton) -> None:
    table = spark.createDataFrame([("a text",)], "text string")
    assert (
        ClipTextEmbedder(url=server.grpc_url, apiKeyEnv="CLIP_TOKEN").transform(table).collect()[0].embedding
    )
    with pytest.raises(
        Exception, match=r"the executor has no variable CLIP_TOKENS; set it on every executor"
    ):
        ClipTextEmbedder(url=server.grpc_url, apiKeyEnv="CLIP_TOKENS").transform(table).collect()


@pytest.mark.parametrize("on_error", ["raise", "null"])
def test_server_with_another_model_fails_the_job_and_names_both_identities(
    spark: Any, server: EmbeddedTriton, on_error: str
) -> None:
    with Client(server.grpc_url) as client:
        served = client.models()[0].identity
    table = spark.createDataFrame([("a text",)], "text string")
    stage = ClipTextEmbedder(url=server.grpc_url, onError=on_error, identity=served)
    assert stage.transform(table).collect()[0].embedding
    with pytest.raises(Exception, match=f"has {served}, but the stage requires {'0f' * 32}; connect"):
        stage.setIdentity("0f" * 32).transform(table).collect()


def test_missing_extra_is_reported_with_its_install_command() -> None:
    code = (
        "import sys; sys.modules['pyspark'] = None\n"
        "from tritonclip import MissingExtraError\n"
        "try:\n    import tritonclip.spark\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    expected = 'the stages need pyspark; install it with: pip install "tritonclip[spark]" (in a checkout: '
    assert done.stdout.strip() == expected + 'pip install "./client[spark]")'
