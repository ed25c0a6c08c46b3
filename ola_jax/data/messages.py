"""Python objects over a socket between processes; arrays are sent as raw memory."""

import pickle
import socket
import struct
from typing import Any

import numpy as np


def send(connection: socket.socket, value: object) -> None:
    """Sends an object. Raises OSError if the other end is closed."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    sizes = [len(head), *(part.nbytes for part in parts)]
    connection.sendall(struct.pack(f"<Q{len(sizes)}Q", len(sizes), *sizes) + head)
    for part in parts:
        connection.sendall(part)


def receive(connection: socket.socket) -> Any:
    """Receives what `send` sent. Raises EOFError or OSError if the other end is closed."""
    (count,) = struct.unpack("<Q", _read(connection, 8))
    sizes = struct.unpack(f"<{count}Q", _read(connection, 8 * count))
    head, *buffers = [_read(connection, size) for size in sizes]
    return pickle.loads(head, buffers=buffers)


def _read(connection: socket.socket, size: int) -> memoryview:
    data = np.empty(size, np.uint8).data
    done = 0
    while done < size:
        received = connection.recv_into(data[done:])
        if not received:
            raise EOFError("the other end is closed")
        done += received
    return data
