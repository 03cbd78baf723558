"""Small requests to the gateway that are expensive if it expands them before it checks them."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import urllib3

from tests.system.fuzz.healthy_requests import healthy_image

LABELS = 10_000
ANNOUNCED = 64 << 20


def post(url: str, path: str, body: bytes) -> int:
    """Send a JSON body and return the status of the answer, whose body is read to its end."""
    with urllib3.PoolManager(retries=False) as pool:
        headers = {"Content-Type": "application/json"}
        return pool.request("POST", url + path, body=body, headers=headers).status


def long_template(url: str) -> list[int]:
    """Put 10,000 labels into a template of 50 kB."""
    body = {
        "images": [base64.b64encode(healthy_image()).decode()],
        "labels": [f"label {number}" for number in range(LABELS)],
        "hypothesis_template": "x" * 50_000 + "{}",
    }
    return [post(url, "/v1/classify", json.dumps(body).encode())]


def many_zeros(url: str) -> list[int]:
    """Send 4 MiB of tokens that are all 0."""
    return [post(url, "/v1/embeddings", b'{"model":"clip","input":[' + b"0," * (2 << 20) + b"0]}")]


def large_answer(url: str) -> list[int]:
    """Ask for the scores of 10,000 labels for each of 256 tiny images."""
    body = {
        "images": [base64.b64encode(healthy_image()).decode()] * 256,
        "labels": [f"{number}" for number in range(LABELS)],
    }
    return [post(url, "/v1/classify", json.dumps(body).encode())]


def blank_base64(url: str) -> list[int]:
    """Send an image of 63 MiB of which all but a few bytes are blanks."""
    image = base64.b64encode(healthy_image()).decode()
    body = {"images": [image + " " * (63 << 20)], "labels": ["a", "b"]}
    return [post(url, "/v1/classify", json.dumps(body).encode())]


@contextlib.contextmanager
def announced_bodies(url: str) -> Iterator[None]:
    """Hold 16 connections that announce 64 MiB each and send nothing."""
    address = urlsplit(url)
    head = (
        f"POST /v1/classify HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {ANNOUNCED}\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            one = stack.enter_context(socket.create_connection((address.hostname, address.port)))
            one.sendall(head.encode())
        yield


def honest_while_announced(url: str) -> list[int]:
    """Send honest requests while 16 others announce 64 MiB each and send nothing."""
    image = base64.b64encode(healthy_image()).decode()
    body = json.dumps({"images": [image], "labels": ["a circle", "a square"]}).encode()
    with announced_bodies(url), ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda _: post(url, "/v1/classify", body), range(16)))
