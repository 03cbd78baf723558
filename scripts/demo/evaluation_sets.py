"""Write two of the demo's tasks as data for `tritonclip-server evaluate`."""

from tritonclip_server.demo.sets import main

if __name__ == "__main__":
    main()
