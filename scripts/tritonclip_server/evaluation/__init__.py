"""Accuracy of a server on labelled images, compared with transformers on the same checkpoint."""
