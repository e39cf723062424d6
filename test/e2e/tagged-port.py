# A switch port that carries one VLAN, tagged: on the one side a machine (QEMU's `-netdev stream`: each frame behind its length), on the other a tap that knows no tags.
# Not by the kernel: many are built without VLANs. Arguments: the tap, the path of a Unix socket to listen on, the VLAN. What the machine sends without that tag is dropped.
import fcntl
import os
import select
import socket
import struct
import sys

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000

name, path, vlan = sys.argv[1], sys.argv[2], int(sys.argv[3])
tag = struct.pack("!HH", 0x8100, vlan)
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(1)
print("listening", flush=True)
machine, _ = listener.accept()

received = b""
while True:
    ready, _, _ = select.select([tap, machine], [], [])
    if tap in ready:
        frame = os.read(tap, 65536)
        machine.sendall(struct.pack("!I", len(frame) + 4) + frame[:12] + tag + frame[12:])
    if machine in ready:
        more = machine.recv(1 << 18)
        if not more:
            sys.exit(0)
        received += more
        while len(received) >= 4:
            end = 4 + struct.unpack_from("!I", received)[0]
            if len(received) < end:
                break
            frame, received = received[4:end], received[end:]
            # The upper four bits are priority and DEI.
            if frame[12:14] == tag[:2] and struct.unpack_from("!H", frame, 14)[0] & 0xFFF == vlan:
                os.write(tap, frame[:12] + frame[16:])
