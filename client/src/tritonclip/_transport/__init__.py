"""Calls over a wire: gRPC and HTTP, each with and without asyncio."""
