"""Serve a model repository: the command `tritonclip-server serve`."""

from tritonclip_server.serving.serve import main

if __name__ == "__main__":
    main()
