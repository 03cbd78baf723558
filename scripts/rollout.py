"""Switch a server to another checkpoint: the command `tritonclip-server rollout`."""

from tritonclip_server.rollout.command import main

if __name__ == "__main__":
    main()
