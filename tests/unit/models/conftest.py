"""One thread for torch: the towers of these tests are small, and threads wait for busy cores."""

import sys

import pytest


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    torch = sys.modules.get("torch")  # tests that do not need it should not wait for its import
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
