"""Prepare a model repository: the command `tritonclip-server prepare`."""

from tritonclip_server.repository.prepare import main

if __name__ == "__main__":
    main()
