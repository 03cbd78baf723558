"""API key of the gateways in the tests, and its line for a keys file."""

import hashlib

KEY = "tck-a-key-of-the-tests-only"
KEY_LINE = f"tests:{hashlib.sha256(KEY.encode()).hexdigest()}"
