"""Compare the system with its peers: the command `tritonclip-server benchmark serving`."""

from tritonclip_server.benchmarks.serving.command import main

if __name__ == "__main__":
    main()
