"""Vector stores for the search index, compared."""
