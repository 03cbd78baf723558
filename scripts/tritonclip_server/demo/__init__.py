"""The demo: its checkpoint's training, its sample images, and a tour of a running server."""
