"""Answers of a server on a full-size checkpoint compared with transformers, in both precisions."""

import pytest

from tests.helpers.parity import LEAST_COSINE, SCORE_TOLERANCE, assert_embeddings_equal, assert_scores_equal
from tests.helpers.pictures import telling_images
from tests.helpers.reference import reference_answers
from tritonclip import Client

BFLOAT16_TOLERANCE = 0.015
"""Tolerance of scores for ViT-B/32 with random weights and a logit scale of 100.

On a CPU with AMX, the scores of transformers itself in bfloat16 differ from those in float32 by 0.0077, and
by 0.0103 with the labels in float32.
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("float32", SCORE_TOLERANCE["float32"]), ("bfloat16", BFLOAT16_TOLERANCE)],
)
@pytest.mark.filterwarnings("ignore::tritonclip.TruncatedTextWarning")
def test_answers_of_a_full_size_checkpoint_equal_the_models(
    servers, prepare, random_checkpoint, record_property, precision, tolerance
):
    reference, images = reference_answers(random_checkpoint), telling_images()
    repository = prepare(random_checkpoint, "--precision", precision)
    with (
        servers.run(repository, f"a full-size ViT-B/32 in {precision}") as server,
        Client(server.grpc_url, timeout_s=300) as client,
    ):
        assert_scores_equal(client, images, reference, tolerance, record_property)
        assert_embeddings_equal(client, images, reference, LEAST_COSINE[precision], record_property)
