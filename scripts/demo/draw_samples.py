"""Draw the sample images."""

from tritonclip_server.demo.samples import main

if __name__ == "__main__":
    main()
