# Carries Ethernet frames between a card and a pipe: standard input to the card, the card to standard output, each frame behind its length in
# two bytes. A length of 0 comes back once all before it was sent.
import socket
import struct
import sys
import threading

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
PACKET_OUTGOING = 4

card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
try:
    card.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
except PermissionError:
    # Root of a user namespace: what the machine allows must do.
    card.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
card.bind((sys.argv[1], 0))
out = sys.stdout.buffer
lock = threading.Lock()


def say(frame):
    with lock:
        out.write(struct.pack('>H', len(frame)) + frame)
        out.flush()


def hear():
    while True:
        frame, address = card.recvfrom(65535)
        if address[2] != PACKET_OUTGOING:
            say(frame)


say(b'')
threading.Thread(target=hear, daemon=True).start()
read = sys.stdin.buffer.read
while True:
    head = read(2)
    if len(head) < 2:
        break
    length = struct.unpack('>H', head)[0]
    if length == 0:
        say(b'')
        continue
    frame = read(length)
    try:
        card.send(frame)
    except OSError:
        # The card is down, or its queue is full: a wire may lose what is sent.
        pass
