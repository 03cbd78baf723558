"""The sampler of a soak on the processes of a real server."""

from loadtest.soaking.samples import Sampler

from tests.helpers.calls import metric

MODELS = ("image_preprocess_0_0", "vision_encoder_0_0", "text_encoder_0_0", "similarity_0_0")


def test_sample_includes_the_server_and_each_stub(server):
    row = Sampler(server.pid, server.metrics).sample()
    assert row["tritonserver.pid"] == server.pid
    for name in ("tritonserver", *MODELS):
        assert row[f"{name}.private_bytes"] > 0
        assert row[f"{name}.threads"] >= 1
        assert row[f"{name}.uss_bytes"] <= row[f"{name}.pss_bytes"]
    assert row["regions"] >= len(MODELS)
    assert row["regions_bytes"] >= len(MODELS) << 20
    assert row["label_cache_bytes"] == metric(server, "tritonclip_label_cache_bytes")
    assert "pending" in row
