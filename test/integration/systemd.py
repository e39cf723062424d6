# What systemd does for a unit with sockets: opens argv[1]'s (name=card=port,...), then runs argv[4:] as uid argv[2] and gid argv[3] without a capability.
import os, socket, sys
SO_RCVBUFFORCE = 33
opened = []
for word in sys.argv[1].split(','):
    name, card, port = word.split('=')
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, card.encode())
    s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
    s.bind(('0.0.0.0', int(port)))
    opened.append((name, s))
high = [os.dup2(s.fileno(), 100 + i) for i, (_, s) in enumerate(opened)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
os.closerange(3 + len(opened), 200)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(opened)), LISTEN_FDNAMES=':'.join(name for name, _ in opened))
uid, gid = int(sys.argv[2]), int(sys.argv[3])
os.setgroups([])
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
os.execv(sys.argv[4], sys.argv[4:])
