"""Who moves bytes through Xray, and with whom.

test_people.py origin PORT                          takes and gives as many bytes as it is asked
test_people.py move SOCKS_PORT PORT UP DOWN [FILE]  moves exactly these by the proxy, and ends

With a FILE it stays when all is moved, and FILE is there.
"""

import socket
import struct
import sys
import threading

# The first bytes up say how many there are in all, and how many are to come back.
HEAD = struct.Struct("!QQ")
# For one read or write; loopback takes milliseconds. A refused user may meet silence.
BOUND_SECONDS = 3


def take(stream, amount):
    while amount > 0:
        got = stream.recv(min(amount, 1 << 16))
        if not got:
            raise ConnectionError("ended by the other side")
        amount -= len(got)


def read(stream, amount):
    got = b""
    while len(got) < amount:
        part = stream.recv(amount - len(got))
        if not part:
            raise ConnectionError("ended by the other side")
        got += part
    return got


def serve(stream):
    with stream:
        try:
            up, down = HEAD.unpack(read(stream, HEAD.size))
            take(stream, up - HEAD.size)
            stream.sendall(bytes(down))
            while stream.recv(1 << 16):
                pass
        except OSError:
            pass


def origin(port):
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


def connect(proxy, port):
    stream = socket.create_connection(("127.0.0.1", proxy), BOUND_SECONDS)
    stream.sendall(bytes([5, 1, 0]))
    read(stream, 2)
    stream.sendall(bytes([5, 1, 0, 1, 127, 0, 0, 1]) + struct.pack("!H", port))
    if read(stream, 10)[1] != 0:
        raise ConnectionError("the proxy refused")
    return stream


def move(proxy, port, up, down, moved=None):
    with connect(proxy, port) as stream:
        stream.sendall(HEAD.pack(up, down) + bytes(up - HEAD.size))
        take(stream, down)
        if moved is not None:
            open(moved, "w").close()
            threading.Event().wait()


if sys.argv[1] == "origin":
    origin(int(sys.argv[2]))
else:
    numbers = [int(word) for word in sys.argv[2:6]]
    move(*numbers, *sys.argv[6:])
