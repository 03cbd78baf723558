"""Spark ML transformers that classify and embed with CLIP on a Triton server.

    from tritonclip.spark import ClipZeroShotClassifier

    classifier = ClipZeroShotClassifier(inputCol="content", candidateLabels=["a cat", "a dog"])
    classifier.transform(spark.read.format("binaryFile").load("photos")).select("path", "label").show()

Run `pip install "tritonclip[spark]"` on the driver and on every executor.
"""

from __future__ import annotations

from tritonclip.errors import MissingExtraError, install_command

try:
    from tritonclip.spark._stages import ClipImageEmbedder, ClipTextEmbedder, ClipZeroShotClassifier
except ImportError as error:
    missing = (error.name or "").partition(".")[0]
    if missing not in ("pyspark", "pandas", "pyarrow", "py4j"):
        raise
    raise MissingExtraError(
        f"the stages need {missing}; install it with: {install_command('spark')}"
    ) from error

__all__ = ["ClipImageEmbedder", "ClipTextEmbedder", "ClipZeroShotClassifier"]
