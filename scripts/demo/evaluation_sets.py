"""Write the demo's digits or held-out shapes as labelled images for `tritonclip-server evaluate`."""

from tritonclip_server.demo.evaluation_sets import main

if __name__ == "__main__":
    main()
