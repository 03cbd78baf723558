"""Who may call the gateway and how much: API keys, rate limits, and limits on requests in flight."""
