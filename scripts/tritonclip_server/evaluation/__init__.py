"""Compare a server with transformers on labelled images."""
