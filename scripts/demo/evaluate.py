"""Measure the accuracy of a checkpoint on the demo's held-out pictures."""

from tritonclip_server.demo.evaluation import main

if __name__ == "__main__":
    main()
