"""A network camera in pure Python: RTSP with motion JPEG (RFC 2326, RFC 2435) interleaved in one TCP connection.

Every picture carries its number, so a test can tell how old what it sees is. The camera can be stalled, given another
resolution, and killed and started again on the same port.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

import cv2
import numpy as np
from numpy.typing import NDArray

BITS = 16  # of the number in a picture


def picture(number: int, width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    """Noise on a grey belt with ``number`` as black and white blocks along the top."""
    image = np.random.default_rng(number).integers(80, 120, (height, width, 3), np.uint8)
    block = width // BITS
    for bit in range(BITS):
        image[16:48, bit * block : (bit + 1) * block] = 255 * (number >> bit & 1)
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that ``picture`` put in."""
    block = image.shape[1] // BITS
    centres = image[32, block // 2 :: block][:BITS].mean(axis=1)
    return sum(int(value > 128) << bit for bit, value in enumerate(centres))


def jpeg_parts(data: bytes) -> tuple[int, int, int, bytes, bytes]:
    """Width, height, RTP type (0: 4:2:2, 1: 4:2:0), quantisation tables and scan of a baseline JPEG."""
    position, tables, width, height, kind = 2, {}, 0, 0, 0
    while True:
        marker, length = data[position + 1], struct.unpack(">H", data[position + 2 : position + 4])[0]
        segment = data[position + 4 : position + 2 + length]
        if marker == 0xDB:
            for start in range(0, len(segment), 65):
                tables[segment[start] & 15] = segment[start + 1 : start + 65]
        elif marker == 0xC0:
            height, width = struct.unpack(">HH", segment[1:5])
            kind = {0x21: 0, 0x22: 1}[segment[7]]
        elif marker == 0xDA:
            return width, height, kind, b"".join(tables[k] for k in sorted(tables)), data[position + 2 + length : -2]
        position += 2 + length


class RtspCamera:
    """Serves every client from picture 0 on; as a context manager it is killed at the end."""

    def __init__(self, fps: float = 25.0, port: int = 0) -> None:
        self.fps, self.size, self.frozen = fps, (320, 240), False
        self.stalled = threading.Event()
        self.clients = self.sent = 0  # connections so far; number of the newest picture on its way
        self._alive, self._port, self._connections = False, port, list[socket.socket]()
        self.start()

    @property
    def uri(self) -> str:
        """Where to find it."""
        return f"rtsp://127.0.0.1:{self._port}/cam"

    def start(self) -> None:
        """Listens, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port), reuse_port=False)
        self._port, self._alive = self._listener.getsockname()[1], True
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def kill(self) -> None:
        """Gone at once, with all connections."""
        self._alive = False
        for end in (self._listener, *self._connections):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._connections.clear()

    def __enter__(self) -> RtspCamera:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self.clients += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        playing = threading.Event()
        data = b""
        with suppress(OSError), connection:
            while chunk := connection.recv(4096):
                data += chunk
                while data:
                    if data[:1] == b"$":  # what the client tells of its reception
                        length = 4 + struct.unpack(">H", data[2:4])[0] if len(data) >= 4 else 4
                        if len(data) < length:
                            break
                        data = data[length:]
                    elif b"\r\n\r\n" in data:
                        head, data = data.split(b"\r\n\r\n", 1)
                        connection.sendall(self._answer(head.decode(), connection, playing))
                    else:
                        break
        playing.set()

    def _answer(self, head: str, connection: socket.socket, ended: threading.Event) -> bytes:
        request, *lines = head.split("\r\n")
        method, url, _ = request.split(" ")
        headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines)}
        answer, body = ["RTSP/1.0 200 OK", f"CSeq: {headers['cseq']}"], ""
        if method == "OPTIONS":
            answer.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
        elif method == "DESCRIBE":
            body = (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\n"
            )
            body += f"a=control:track1\r\na=framerate:{self.fps:g}\r\n"
            answer += [f"Content-Base: {url}/", "Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP" and "TCP" in headers["transport"]:
            answer += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1;timeout=60"]
        elif method == "SETUP":
            answer[0] = "RTSP/1.0 461 Unsupported Transport"
        else:
            answer.append("Session: 1")
        if method == "PLAY":
            threading.Thread(target=self._send, args=(connection, ended), daemon=True).start()
        return "\r\n".join([*answer, "", body]).encode()

    def _send(self, connection: socket.socket, ended: threading.Event) -> None:
        time.sleep(0.02)  # the answer to PLAY goes first
        sequence, number, began = 0, 0, time.monotonic()
        with suppress(OSError):
            while self._alive and not ended.is_set():
                if not self.stalled.is_set():
                    self.sent = number
                    sequence = self._send_picture(connection, sequence, 0 if self.frozen else number, began)
                number += 1
                time.sleep(max(0.0, began + number / self.fps - time.monotonic()))

    def _send_picture(self, connection: socket.socket, sequence: int, number: int, began: float) -> int:
        encoded = cv2.imencode(".jpg", picture(number % (1 << BITS), *self.size), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        width, height, kind, tables, scan = jpeg_parts(encoded.tobytes())
        stamp = int((time.monotonic() - began) * 90000) & 0xFFFFFFFF
        for offset in range(0, len(scan), 1400):
            header = struct.pack(">I", offset) + bytes([kind, 255, width // 8, height // 8])
            if offset == 0:
                header += struct.pack(">HH", 0, len(tables)) + tables
            chunk = scan[offset : offset + 1400]
            marker = 0x80 if offset + 1400 >= len(scan) else 0
            packet = struct.pack(">BBHII", 0x80, 26 | marker, sequence & 0xFFFF, stamp, 1234) + header + chunk
            connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)
            sequence += 1
        return sequence
