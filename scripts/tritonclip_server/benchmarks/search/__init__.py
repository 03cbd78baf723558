"""Comparison of vector stores for the search index."""
