"""Train the demo checkpoint."""

from tritonclip_server.demo.train import main

if __name__ == "__main__":
    main()
