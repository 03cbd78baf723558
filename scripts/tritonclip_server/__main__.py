"""Run the command: `python -m tritonclip_server`."""

from tritonclip_server._cli import main

main(prog_name="tritonclip-server")
