"""Evaluate the demo checkpoint on held-out pictures."""

from tritonclip_server.demo.evaluate import main

if __name__ == "__main__":
    main()
