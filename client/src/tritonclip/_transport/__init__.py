"""Transports: how calls and questions travel to the server, over gRPC and HTTP, with and without asyncio."""
