"""Access control of the gateway: API keys, rate limits, and limits on requests in flight."""
