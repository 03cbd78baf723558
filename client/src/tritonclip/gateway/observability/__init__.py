"""What the gateway reports about itself: logs, Prometheus metrics, traces and readiness."""
