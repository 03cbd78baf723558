"""The APIs that the gateway speaks. Each dialect is one module with its JSON types and its routes.

A dialect has a `DIALECT`, a `router` whose requests it marks, and `BODIES`: the models of the JSON bodies
that its routes parse.
"""

from tritonclip.gateway.dialects import (
    cohere,
    huggingface,
    immich,
    infinity,
    native,
    openai,
    sambastudio,
    search,
    tei,
    triton,
    voyage,
    weaviate,
)

DIALECTS = (
    native,
    openai,
    sambastudio,
    search,
    cohere,
    huggingface,
    immich,
    infinity,
    tei,
    triton,
    voyage,
    weaviate,
)
