"""The benchmark of decoding threads with a real server."""

from tritonclip_server.benchmarks.decoding import Decoders, measured, request_with, served_alone
from tritonclip_server.benchmarks.workload import photos


def test_only_image_preprocess_is_served_with_the_setting(servers, tmp_path):
    servers.command("benchmark decoding: image_preprocess alone")
    setting = Decoders(2, 1, "pillow")
    requests = [request_with(file) for file in photos(2, (64, 48))]
    with served_alone(tmp_path, setting) as server:
        assert list(server.stubs().values()) == ["image_preprocess"] * 2
        rate = measured(server, requests, setting, seconds=0.1)
    assert min(rate.images_s, rate.model_ms, rate.triton_ms, rate.process_mib) > 0
