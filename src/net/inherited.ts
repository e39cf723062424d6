// Sockets that systemd opened for us (sd_listen_fds(3)): bound to their ports and cards before we ran, and without any right of ours.
import { AppError } from '../errors.ts';
import { adopt, type BoundSocket } from './device-socket.ts';
import { plainSockets } from './libc.ts';

/** SD_LISTEN_FDS_START. */
const FIRST_FD = 3;

/** Name (FileDescriptorName=) to file number. Empty when nothing was handed to this very process. */
export function inheritedFds(env: NodeJS.ProcessEnv = process.env, pid: number = process.pid): ReadonlyMap<string, number> {
  const count = Number(env.LISTEN_FDS);
  // Our children see these variables too: LISTEN_PID says whom they are for.
  if (plainSockets() || Number(env.LISTEN_PID) !== pid || !Number.isInteger(count) || count < 1) return new Map();
  const names = (env.LISTEN_FDNAMES ?? '').split(':');
  return new Map(names.slice(0, count).map((name, i) => [name, FIRST_FD + i]));
}

/** The socket of this name; undefined: none was handed over. PORT_UNAVAILABLE when it is no UDP socket, or was taken before. */
export function inheritedSocket(name: string): BoundSocket | undefined {
  const fd = inheritedFds().get(name);
  if (fd === undefined) return undefined;
  try {
    return adopt(fd);
  } catch (error) {
    throw new AppError('PORT_UNAVAILABLE', `the socket ${name} that systemd handed over cannot be used: ${(error as Error).message}`, 'its unit must say ListenDatagram=0.0.0.0:<port>, as those of packaging/systemd do', error);
  }
}
