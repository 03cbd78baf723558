"""Write both towers as ONNX: the command `tritonclip-server export-onnx`."""

from tritonclip_server.onnx_export.command import main

if __name__ == "__main__":
    main()
