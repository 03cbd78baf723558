"""Serve a repository and classify the sample images."""

from tritonclip_server.demo.tour import main

if __name__ == "__main__":
    main()
