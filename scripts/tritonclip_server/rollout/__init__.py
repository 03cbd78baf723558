"""Switch a running server to another checkpoint without losing a request."""
