"""The demo: training of its checkpoint, its sample images, and a tour of a running server."""
