"""What is searched for as a vector, and texts ranked that are in no index."""

from __future__ import annotations

import os

import numpy as np

from tritonclip._images.fetch import is_url
from tritonclip.client import Client
from tritonclip.errors import InvalidInputError
from tritonclip.search._sources import read_image, sha256
from tritonclip.search._types import Array, Entry, Hit, entry_id


def embed_query(client: Client, text: str | None, image: str | None) -> tuple[Array, bytes | None]:
    """The vector of a text, or of an image file or URL, and a file's content.

    Returns:
        float32 [d], unit L2 norm; None for a text or a URL.
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
    """The texts of a file that are nearest to a vector, best first."""
    path, texts = os.path.abspath(file), list(dict.fromkeys(lines))
    cosines = np.array([embed @ vector for embed in client.embed_texts_many(texts)])
    return [
        Hit(
            score=float(cosines[place]),
            entry=Entry(
                id=entry_id("text", path, texts[place]),
                kind="text",
                path=path,
                name=texts[place],
                sha256=sha256(texts[place].encode()),
            ),
        )
        for place in np.argsort(-cosines, kind="stable")[:top_k]
    ]
