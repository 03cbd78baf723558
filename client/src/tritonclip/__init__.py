"""A client of Triton Inference Servers that serve CLIP with tritonclip's model repository.

from tritonclip import Client

with Client("localhost:8001") as clip:
    clip.classify("cat.jpg", ["cat", "dog"])

Importing the package does not import `tritonclient` or any model library.
"""

from tritonclip._answers.frames import embeddings_to_arrow
from tritonclip._answers.predictions import PredictionBatch, Predictions
from tritonclip._bulk import BulkOptions
from tritonclip._calls.checks import DEFAULT_HYPOTHESIS_TEMPLATE, DEFAULT_LABELS
from tritonclip._calls.request import RequestOptions
from tritonclip._calls.timings import collect_timings
from tritonclip._images.files import find_images
from tritonclip._images.skipped import SkippedFile
from tritonclip._pipeline import pipeline
from tritonclip._settings import ClientOptions
from tritonclip._types import Health, ImageInput, ModelInfo, ModelStatistics, Prediction, Progress, Timings
from tritonclip._version import __version__ as __version__
from tritonclip.async_client import AsyncClient
from tritonclip.classifier import ZeroShotClassifier
from tritonclip.client import Client
from tritonclip.errors import (
    AccessDeniedError,
    CertificateError,
    DeadlineExceededError,
    InferenceError,
    InvalidInputError,
    LabelWarning,
    MissingExtraError,
    ModelNotReadyError,
    ServerUnavailableError,
    TritonClipError,
    TruncatedTextWarning,
)

__all__ = [
    "DEFAULT_HYPOTHESIS_TEMPLATE",
    "DEFAULT_LABELS",
    "AccessDeniedError",
    "AsyncClient",
    "BulkOptions",
    "CertificateError",
    "Client",
    "ClientOptions",
    "DeadlineExceededError",
    "Health",
    "ImageInput",
    "InferenceError",
    "InvalidInputError",
    "LabelWarning",
    "MissingExtraError",
    "ModelInfo",
    "ModelNotReadyError",
    "ModelStatistics",
    "Prediction",
    "PredictionBatch",
    "Predictions",
    "Progress",
    "RequestOptions",
    "ServerUnavailableError",
    "SkippedFile",
    "Timings",
    "TritonClipError",
    "TruncatedTextWarning",
    "ZeroShotClassifier",
    "collect_timings",
    "embeddings_to_arrow",
    "find_images",
    "pipeline",
]
