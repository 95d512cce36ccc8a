"""A member that serves slow downloads, and clients that count every byte of them.

A download is as slow as the test wants: its second half is sent only after :meth:`Shop.finish`.
"""

from __future__ import annotations

import http.server
import socket
import threading

from support.gateway import PATIENCE, Web, wait
from support.operated_gateway import A, B, OperatedGateway

HALF = 200_000                                      # bytes
WHOLE = 2 * HALF
VIP = "127.0.0.1"


class Shop(Web):
    """``/slow`` is a download that begins with the member's name; everything else is as with :class:`Web`."""

    def start(self) -> None:
        self.finished = threading.Event()
        self.begun = 0                              # downloads
        super().start()

    def get(self, request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path != "/slow":
            super().get(request)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(WHOLE))
        request.end_headers()
        request.wfile.write(self.name.encode().ljust(HALF, b"."))
        self.begun += 1
        self.finished.wait(PATIENCE)
        request.wfile.write(b"." * HALF)

    def finish(self) -> None:
        """Let all downloads come to their ends."""
        self.finished.set()


class Download:
    """One of them, through the gateway; it has begun when this is made. ``member`` is the name of who serves it."""

    def __init__(self, address: str, port: int) -> None:
        self.data = b""
        self._socket = socket.create_connection((address, port), timeout=PATIENCE)
        self._socket.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        while len(self.body) < HALF:
            data = self._socket.recv(65536)
            assert data, "cut off before its middle"
            self.data += data
        self.member = self.body[:100].rstrip(b".").decode()

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    def rest(self) -> int:
        """Read it to its end, which whoever serves it has to let come. Returns how many bytes of it arrived in all."""
        try:
            while data := self._socket.recv(65536):
                self.data += data
        except ConnectionError:
            pass
        finally:
            self._socket.close()
        return len(self.body)


def member_of(address: str, port: int) -> str:
    """Who serves a new client."""
    with socket.create_connection((address, port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b""
        while chunk := client.recv(65536):
            data += chunk
    return data.partition(b"\r\n\r\n")[2].decode()


def download_of(name: str, address: str, port: int) -> Download:
    """A download from this member, whoever's turn it is; the others are left in their middles."""
    found: list[Download] = []

    def lands() -> bool:
        found.append(Download(address, port))
        return found[-1].member == name

    wait(f"a download from {name}", lands)
    for other in found[:-1]:
        other._socket.close()
    return found[-1]


class ShopGateway(OperatedGateway):
    """Two shops behind a gateway, with a health page each."""

    def setup(self, members: str = f"web1: {A}, web2: {B}", top: str = "", more: str = "", check: str = "",
              service: str = "") -> None:
        self.configure(f"www: {{address: {VIP}, services: {{http: {{port: {self.port}, member_port: {self.inside}, "
                       f"check: {{type: http{check}}}{service}}}}}, members: {{{members}}}{more}}}", top=top,
                       defaults="{interval: 600ms, timeout: 600ms, rise: 2, fall: 2, fast_interval: 100ms, "
                                "down_interval: 300ms}")

    def web(self, address: str, port: int, name: str = "") -> Shop:
        shop = Shop(address, port, name)
        self.webs.append(shop)
        return shop

    def begin(self) -> None:
        self.start()
        self.wait_targets(A, B)

    def download(self, name: str = A) -> Download:
        return download_of(name, VIP, self.port)

    def nobody_lands(self, name: str = A) -> None:
        """New clients, more than there are members, do not meet it."""
        assert name not in {member_of(VIP, self.port) for _ in range(4)}

    def finish(self) -> None:
        for web in self.webs:
            assert isinstance(web, Shop)
            web.finish()

    def comes_to_its_end(self, *downloads: Download) -> None:
        self.finish()
        assert [download.rest() for download in downloads] == [WHOLE] * len(downloads)

    def forget_the_closed(self) -> None:
        """Half a minute passes in the kernel, which lists closed sessions so long. None must be open any more."""
        assert self.kernel.ipnat("-F").status == 0


class Waiter:
    """l4ipctl, that waits; what it says goes to a file."""

    def __init__(self, node: ShopGateway, *words: str) -> None:
        self.out = node.directory / "out"
        with self.out.open("w") as out:
            self.process = node.popen(*words, stdout=out)

    def says(self, line: str) -> None:
        wait(f"{line}, but only {self.out.read_text()}", lambda: line in self.out.read_text().splitlines())

    def end(self) -> tuple[int, str]:
        """Its exit status, and standard error."""
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err
