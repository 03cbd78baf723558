"""A store on a Chroma server, `chroma://host:port/collection`, over version 2 of Chroma's REST API.

This module does not use Chroma's client package, which has a dozen dependencies and sends telemetry unless it
is disabled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import urllib3

from tritonclip._process import forks
from tritonclip.errors import AccessDeniedError, InferenceError, InvalidInputError, ServerUnavailableError
from tritonclip.search._types import (
    Array,
    Entry,
    Hit,
    Identity,
    IndexRow,
    Kind,
    Stamp,
    dump_identity,
    parse_identity,
)

ENV_TOKEN = "TRITONCLIP_CHROMA_TOKEN"
FLUSH_ROWS = 256
PORTS = {"chroma": 8000, "chromas": 443, "http": 80, "https": 443}
TIMEOUT_S = 60.0
HNSW_SETTINGS = {"space": "cosine", "ef_construction": 200, "max_neighbors": 32, "ef_search": 200}
_PAGE_ROWS = 1000
_FIELDS = ("kind", "path", "name", "sha256")


class ChromaStore:
    """A `Store` in a collection of a Chroma server.

    Args:
        url: `chroma://host:port/collection`, or `chromas://` or `https://` for TLS. `?tenant=` and
            `&database=` select others than Chroma's defaults. The environment variable
            TRITONCLIP_CHROMA_TOKEN is sent as the authentication token.
        identity: Checkpoint of a new collection, or None to open only an existing one.
    """

    flush_rows = FLUSH_ROWS
    work_directory: Path | None = None

    def __init__(self, url: str, identity: Identity | None) -> None:
        parts = urlsplit(url)
        name = parts.path.strip("/")
        if not parts.hostname or not name or "/" in name:
            raise InvalidInputError(f"{url!r}: expected chroma://host:port/collection")
        options = {key: values[0] for key, values in parse_qs(parts.query).items()}
        scheme = "https" if parts.scheme in ("chromas", "https") else "http"
        tenant, database = (
            options.get("tenant", "default_tenant"),
            options.get("database", "default_database"),
        )
        self._server = f"{scheme}://{parts.netloc if parts.port else f'{parts.netloc}:{PORTS[parts.scheme]}'}"
        self._base = f"{self._server}/api/v2/tenants/{quote(tenant)}/databases/{quote(database)}/collections"
        token = os.environ.get(ENV_TOKEN)
        self._headers = {"Content-Type": "application/json", **({"X-Chroma-Token": token} if token else {})}
        self._http = self._new_pool()
        forks.renew_in_children(self)
        found = self._open(name, identity)
        self._collection = f"{self._base}/{found['id']}"
        self.identity = parse_identity((found.get("metadata") or {}).get("tritonclip"), url)

    def _new_pool(self) -> urllib3.PoolManager:
        retries = urllib3.Retry(total=3, backoff_factor=0.2, allowed_methods=None, raise_on_status=False)
        return urllib3.PoolManager(timeout=urllib3.Timeout(TIMEOUT_S), retries=retries, headers=self._headers)

    def renew(self) -> None:
        """Start without connections in a forked process."""
        forks.leave_to_parent(self._http)
        self._http = self._new_pool()

    def put(self, rows: Sequence[IndexRow]) -> None:
        """Implement `Store.put`."""
        for start in range(0, len(rows), FLUSH_ROWS):
            batch = rows[start : start + FLUSH_ROWS]
            metadatas = [
                {name: getattr(row.entry, name) for name in _FIELDS}
                | {"size": row.stamp.size, "mtime_ns": row.stamp.mtime_ns}
                for row in batch
            ]
            embeddings = [row.vector.tolist() for row in batch]
            ids = [row.entry.id for row in batch]
            self._post("/upsert", {"ids": ids, "embeddings": embeddings, "metadatas": metadatas})

    def delete(self, ids: Sequence[str]) -> None:
        """Implement `Store.delete`."""
        for start in range(0, len(ids), FLUSH_ROWS):
            self._post("/delete", {"ids": list(ids[start : start + FLUSH_ROWS])})

    def optimize(self) -> None:
        """Do nothing; the server maintains its HNSW graph itself."""

    def count(self, kind: Kind | None = None) -> int:
        """Implement `Store.count`."""
        if kind is None:
            return int(self._request("GET", f"{self._collection}/count"))
        return sum(len(page["ids"]) for page in self._pages([], _PAGE_ROWS, kind))

    def stamps(self) -> Iterator[list[tuple[Entry, Stamp]]]:
        """Implement `Store.stamps`."""
        for page in self._pages(["metadatas"], _PAGE_ROWS):
            yield [
                (_entry(id, meta), Stamp(size=meta["size"], mtime_ns=meta["mtime_ns"]))
                for id, meta in zip(page["ids"], page["metadatas"], strict=True)
            ]

    def blocks(self, kind: Kind, rows: int) -> Iterator[tuple[list[Entry], Array]]:
        """Implement `Store.blocks`."""
        for page in self._pages(["metadatas", "embeddings"], rows, kind):
            entries = [_entry(id, meta) for id, meta in zip(page["ids"], page["metadatas"], strict=True)]
            yield entries, np.asarray(page["embeddings"], np.float32)

    def vectors(self, ids: Iterable[str]) -> dict[str, Array]:
        """Implement `Store.vectors`."""
        wanted, found = list(ids), dict[str, Array]()
        for start in range(0, len(wanted), FLUSH_ROWS):
            batch = wanted[start : start + FLUSH_ROWS]
            page = self._post("/get", {"ids": batch, "include": ["embeddings"]})
            found |= zip(page["ids"], np.asarray(page["embeddings"], np.float32), strict=True)
        return found

    def get(self, id: str) -> Entry | None:
        """Implement `Store.get`."""
        page = self._post("/get", {"ids": [id], "include": ["metadatas"]})
        return _entry(id, page["metadatas"][0]) if page["ids"] else None

    def search(self, vector: Array, top_k: int, kind: Kind | None) -> list[Hit]:
        """Implement `Store.search`."""
        body = {
            "query_embeddings": [vector.tolist()],
            "n_results": top_k,
            "include": ["metadatas", "distances"],
            **_kind_filter(kind),
        }
        page = self._post("/query", body)
        found = zip(page["ids"][0], page["metadatas"][0], page["distances"][0], strict=True)
        hits = [Hit(score=1 - distance, entry=_entry(id, meta)) for id, meta, distance in found]
        return sorted(hits, key=lambda hit: (-hit.score, hit.entry.id))

    def close(self) -> None:
        """Implement `Store.close`."""
        self._http.clear()

    def _open(self, name: str, identity: Identity | None) -> dict[str, Any]:
        if identity is None:
            collection: dict[str, Any] = self._request("GET", f"{self._base}/{quote(name)}")
            return collection
        new = {
            "name": name,
            "get_or_create": True,
            "metadata": {"tritonclip": dump_identity(identity)},
            "configuration": {"hnsw": HNSW_SETTINGS},
        }
        try:  # get_or_create would replace the metadata of an existing collection
            return self._open(name, None)
        except InvalidInputError:
            created: dict[str, Any] = self._request("POST", self._base, new)
            return created

    def _pages(self, include: list[str], rows: int, kind: Kind | None = None) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            body = {"limit": rows, "offset": offset, "include": include, **_kind_filter(kind)}
            page = self._post("/get", body)
            if not page["ids"]:
                return
            yield page
            offset += len(page["ids"])

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._request("POST", self._collection + path, body)

    def _request(self, method: str, url: str, body: dict[str, Any] | None = None) -> Any:
        try:
            answer = self._http.request(method, url, body=None if body is None else json.dumps(body))
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnavailableError(f"no Chroma server answers at {self._server}: {error}") from error
        if answer.status < 300:
            return json.loads(answer.data)
        text = answer.data[:300].decode("utf-8", "replace")
        message = f"Chroma at {self._server} answered {answer.status}: {text}"
        if answer.status in (401, 403):
            raise AccessDeniedError(f"{message}; check {ENV_TOKEN}")
        if answer.status < 500:
            raise InvalidInputError(message)
        raise InferenceError(message) if answer.status == 500 else ServerUnavailableError(message)


def _kind_filter(kind: Kind | None) -> dict[str, Any]:
    return {} if kind is None else {"where": {"kind": kind}}


def _entry(id: str, meta: dict[str, Any]) -> Entry:
    return Entry(id=id, **{name: meta[name] for name in _FIELDS})
