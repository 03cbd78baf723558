"""The API key of the gateways of the tests, and its line."""

import hashlib

KEY = "tck-a-key-of-the-tests-only"
KEY_LINE = f"tests:{hashlib.sha256(KEY.encode()).hexdigest()}"
