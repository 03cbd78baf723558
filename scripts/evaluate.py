"""Compare a server with transformers: the command `tritonclip-server evaluate`."""

from tritonclip_server.evaluation.command import main

if __name__ == "__main__":
    main()
