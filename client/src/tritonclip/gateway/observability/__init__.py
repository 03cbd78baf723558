"""Logs, Prometheus metrics, traces and readiness of the gateway."""
