"""Semantic search over your own images and texts, with an index that follows the files.

    from tritonclip import Client
    from tritonclip.search import SearchIndex

    with Client("localhost:8001") as clip, SearchIndex.open("photos.index", clip, create=True) as index:
        index.sync(["photos"])
        for hit in index.search(clip.embed_texts("a dog on a beach"), 10):
            print(hit.score, hit.entry.path)

The vectors are stored in a local directory by LanceDB, which needs `pip install "tritonclip[search]"`, or on
a Chroma server, which needs no extra.
"""

from tritonclip._images.skipped import SkippedKind
from tritonclip.search._duplicates import DuplicateGroup
from tritonclip.search._index import SearchIndex
from tritonclip.search._sync import Summary
from tritonclip.search._types import Entry, Hit, Hits, Kind

__all__ = ["DuplicateGroup", "Entry", "Hit", "Hits", "Kind", "SearchIndex", "SkippedKind", "Summary"]
