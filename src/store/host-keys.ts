// The secret from which the nodes' ssh host keys come: one file of the state directory, made once.
import { randomBytes } from 'node:crypto';
import { linkSync, mkdirSync, openSync, readFileSync, rmSync, writeSync, closeSync, fsyncSync } from 'node:fs';
import { join } from 'node:path';
import { hostKeyOf, type HostKey } from '../boot/ssh-keys.ts';
import { AppError } from '../errors.ts';

const FILE = 'ssh-host-keys.secret';
const BYTES = 32;

export interface HostKeys {
  /** STORE_UNUSABLE when the secret can be neither read nor made. */
  of(node: string): HostKey;
}

/** Reads the secret when the first key is asked for, and makes it when there is none: a daemon whose profiles have no ssh keys needs none. */
export function createHostKeys(stateDir: string): HostKeys {
  let secret: Uint8Array | undefined;
  return { of: (node) => hostKeyOf((secret ??= readSecret(stateDir)), node) };
}

/** Threads may come at once: whoever links its file first has made the secret, and all read that one. */
function readSecret(stateDir: string): Uint8Array {
  const file = join(stateDir, FILE);
  try {
    return whole(file, readIfThere(file) ?? made(stateDir, file));
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('STORE_UNUSABLE', `${file}: ${(error as NodeJS.ErrnoException).code ?? 'cannot be read'}`, 'it belongs to the user that rackseed runs as, mode 0600', error);
  }
}

function whole(file: string, bytes: Buffer): Buffer {
  if (bytes.length === BYTES) return bytes;
  throw new AppError('STORE_UNUSABLE', `${file} has ${bytes.length} bytes, not ${BYTES}`, 'take it from a backup; without one remove it: each node gets another ssh host key at its next boot');
}

function readIfThere(file: string): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function made(stateDir: string, file: string): Buffer {
  mkdirSync(stateDir, { recursive: true, mode: 0o750 });
  const own = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`;
  try {
    const fd = openSync(own, 'wx', 0o600);
    try {
      writeSync(fd, randomBytes(BYTES));
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    linkSync(own, file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    rmSync(own, { force: true });
  }
  return readFileSync(file);
}
