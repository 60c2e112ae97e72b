"""A shell's `ttt-hf` without the seconds in which Python imports: a server has imported, and forks for each command.

    python tests/preforked.py SOCKET     # with the package to be tested on the path; says where that lies
    PREFORKED=SOCKET ttt-hf talk ...     # where `ttt-hf` is `CLIENT`

The client passes its folder, environment, arguments and files to the server and ends with the command's exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import traceback
from pathlib import Path


# What the verbs import, as far as it is installed.
MODULES = (
    "datasets", "jiwer", "matplotlib.pyplot", "peft", "transformers.models.qwen2.modeling_qwen2",
    "transformers.trainer", "ttt_hf.converting.official_checkpoint", "ttt_hf.converting.text_model",
    "ttt_hf.data.encoding", "ttt_hf.evaluation.harness", "ttt_hf.evaluation.report", "ttt_hf.training.finetuning",
)  # fmt: skip
CLIENT = f"""#!{sys.executable} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ["PREFORKED"])
    request = json.dumps([os.getcwd(), dict(os.environ), sys.argv]).encode()
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    sys.exit(int(server.recv(4) or b"99"))
"""


def serve(address: str) -> None:
    """Runs commands until it is killed."""
    sys.path.remove(str(Path(__file__).resolve().parent))
    for module in MODULES:
        try:
            importlib.import_module(module)
        except ImportError:
            if module.startswith("ttt_hf"):
                raise
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print(sys.modules["ttt_hf"].__file__, flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                run(connection)
            connection.close()
            os.waitpid(-1, os.WNOHANG)


def run(connection: socket.socket) -> None:
    """Runs the command that a client sends, in this process, and ends it."""
    length, files, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as stream:
        folder, environment, arguments = json.loads(stream.read(int.from_bytes(length, "big")))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: SIM115
    code: object = 99
    try:
        from ttt_hf.cli.main import main

        code = main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
