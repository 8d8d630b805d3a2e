"""A real TensorBoard server, as a user starts it."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

SECONDS = 60.0


@contextlib.contextmanager
def tensorboard(folder, *, ready, options=("--load_fast", "false")):
    """Serve a folder, and yield the server's address once ``ready(address)`` holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--reload_interval", "1", *options]
    log = folder.parent / f"{folder.name}.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: ready(address), server, log)
        yield address
        assert server.poll() is None, log.read_text()
    finally:
        server.terminate()
        server.wait()


def wait_for(ready, server=None, log=None):
    """Wait until something holds; connections that are refused are tried again."""
    end = time.monotonic() + SECONDS
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if ready():
                return
        assert server is None or server.poll() is None, log.read_text()
        assert time.monotonic() < end
        time.sleep(0.2)


def fetched(address):
    """What the server answers."""
    with urllib.request.urlopen(address, timeout=SECONDS) as response:
        return response.read()
