"""Train the demo checkpoint."""

from tritonclip_server.demo.training import main

if __name__ == "__main__":
    main()
