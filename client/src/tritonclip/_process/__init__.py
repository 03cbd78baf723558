"""The process that the client runs in: forks, worker threads, and the proxies of its environment."""
