"""Helpers of the command `tritonclip search`: embed the query, and rank texts that are not in an index."""

from __future__ import annotations

import os

import numpy as np

from tritonclip._images.urls import is_url
from tritonclip.client import Client
from tritonclip.errors import InvalidInputError
from tritonclip.search._sources import read_image, sha256
from tritonclip.search._types import Array, Entry, Hit, entry_id


def embed_query(client: Client, text: str | None, image: str | None) -> tuple[Array, bytes | None]:
    """Embed a text, or an image given as a path or URL.

    Returns:
        The vector, float32 [d] with unit L2 norm, and the content of the image file (None for a text or a
        URL).
    """
    if text is not None:
        return client.embed_texts(text), None
    if image is None:
        raise InvalidInputError("give a text or an image")
    if is_url(image):
        return client.embed_images(image), None
    try:
        content, _ = read_image(image)
    except InvalidInputError as error:
        raise InvalidInputError(f"{image}: {error.message}") from error
    return client.embed_images(content), content


def rank_texts(client: Client, file: str, lines: list[str], vector: Array, top_k: int) -> list[Hit]:
    """Return the `top_k` lines of a text file that are most similar to a vector, best first."""
    path, texts = os.path.abspath(file), list(dict.fromkeys(lines))
    cosines = np.array([embed @ vector for embed in client.embed_texts_many(texts)])
    return [
        Hit(
            score=float(cosines[n]),
            entry=Entry(
                id=entry_id("text", path, texts[n]),
                kind="text",
                path=path,
                name=texts[n],
                sha256=sha256(texts[n].encode()),
            ),
        )
        for n in np.argsort(-cosines, kind="stable")[:top_k]
    ]
