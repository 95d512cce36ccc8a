"""What a TLS handshake costs the prober: microseconds of CPU per probe, by kind of tunnel. Needs ``cryptography``.

    python tests/bench/tls_cost.py [--probes 500]

``probe`` is an https probe as l4ipd makes it, ``handshake`` a tls probe that asks nothing, of a member that does not
wish for a client certificate and of one that does; with how long one of them takes. The others are blocking handshakes
with the standard library, for comparison: through a socket, through a memory BIO, and through a memory BIO with the
session of the last one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))

from l4ipd.checks.probe import Prober
from l4ipd.checks.recipe import recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check, Endpoint
from l4ipd.runtime.loop import Loop
from support.certs import Authority

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"


def serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        client, _ = listener.accept()
        try:
            with context.wrap_socket(client, server_side=True) as wrapped:
                wrapped.recv(4096)
                wrapped.send(ANSWER)
        except OSError:
            pass


def through_socket(context: ssl.SSLContext, address: tuple[str, int]) -> None:
    with socket.create_connection(address) as sock, context.wrap_socket(sock) as wrapped:
        wrapped.send(REQUEST)
        wrapped.recv(4096)


def through_memory(context: ssl.SSLContext, address: tuple[str, int],
                   session: ssl.SSLSession | None = None) -> ssl.SSLSession | None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tunnel = context.wrap_bio(incoming, outgoing, session=session)
    with socket.create_connection(address) as sock:
        def go(step: Callable[[], object]) -> None:
            while True:
                try:
                    step()
                    if outgoing.pending:
                        sock.sendall(outgoing.read())
                    return
                except ssl.SSLWantReadError:
                    if outgoing.pending:
                        sock.sendall(outgoing.read())
                    incoming.write(sock.recv(4096))
        go(tunnel.do_handshake)
        go(lambda: tunnel.write(REQUEST))
        go(lambda: tunnel.read(4096))
        return tunnel.session


def probe(loop: Loop, prober: Prober, address: tuple[str, int], check: Check) -> None:
    verdicts: list[Verdict] = []
    prober.start(recipe(check, Endpoint("c/s/m", "c", "s", "m", ("127.0.0.1",), 443, "tcp", False, *address, 1, False,
                                        (check,))), verdicts.append)
    while not verdicts:
        loop.turn()
    assert verdicts[0].passed, verdicts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--probes", type=int, default=500)
    probes = parser.parse_args().probes
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority(Path(directory))
        wishing = authority.server("localhost")
        wishing.verify_mode = ssl.CERT_OPTIONAL
        wishing.load_verify_locations(authority.path)
        servers, addresses = [], []
        fork = multiprocessing.get_context("fork")
        for each in (authority.server("localhost"), wishing):
            listener = socket.create_server(("127.0.0.1", 0))
            servers.append(fork.Process(target=serve, args=(listener, each), daemon=True))
            servers[-1].start()
            addresses.append(listener.getsockname())
        address = addresses[0]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        loop = Loop()
        prober = Prober(loop)
        session = through_memory(context, address)
        kinds: dict[str, Callable[[], object]] = {
            "probe": lambda: probe(loop, prober, address, Check("https")),
            "probe, verified": lambda: probe(loop, prober, address,
                                             Check("https", verify=str(authority.path), sni="localhost")),
            "handshake": lambda: probe(loop, prober, address, Check("tls")),
            "handshake, wished for": lambda: probe(loop, prober, addresses[1], Check("tls")),
            "socket": lambda: through_socket(context, address),
            "memory BIO": lambda: through_memory(context, address),
            "memory BIO, session": lambda: through_memory(context, address, session),
        }
        for name, run in kinds.items():
            run()
            start, begun = time.process_time(), time.monotonic()
            for _ in range(probes):
                run()
            cpu, took = time.process_time() - start, time.monotonic() - begun
            print(f"{name:21} {cpu / probes * 1e6:7.0f} us of CPU, {took / probes * 1e6:7.0f} us")
        for server in servers:
            server.kill()


if __name__ == "__main__":
    main()
