"""Search in images and texts by what they show: an index of embeddings that is kept up to date.

    from tritonclip import Client
    from tritonclip.search import SearchIndex

    with Client("localhost:8001") as clip, SearchIndex.open("photos.index", clip, create=True) as index:
        index.sync(["photos"])
        for hit in index.search(clip.embed_texts("a dog on a beach"), 10):
            print(hit.score, hit.entry.path)

The vectors lie in a directory (LanceDB; `pip install "tritonclip[search]"`) or on a Chroma server, which
needs no extra. Built over the public client, which does not know of it.
"""

from tritonclip.search._duplicates import DuplicateGroup
from tritonclip.search._index import SearchIndex
from tritonclip.search._sync import Summary
from tritonclip.search._types import Entry, Hit, Kind

__all__ = ["DuplicateGroup", "Entry", "Hit", "Kind", "SearchIndex", "Summary"]
