// Blocks that go to a connection past Node, without a copy; and how much of a connection's bytes did.
import type { Socket } from 'node:net';
import { pouring } from '../net/pour.ts';
import type { LentBlock } from './block-cache.ts';

const poured = new WeakMap<Socket, number>();

/** Of the block's bytes, those that the socket took: none when it is full, or when they have to be written by Node. */
export function pourInto(socket: Socket | null, block: LentBlock, { from, to, more }: { readonly from: number; readonly to: number; readonly more: boolean }): number {
  const fd = plainFd(socket);
  // What Node has not sent yet comes first.
  if (fd === undefined || block.address === undefined || socket!.writableLength > 0) return 0;
  const taken = pouring()?.(fd, block.address + from, to - from, more) ?? 0;
  poured.set(socket!, (poured.get(socket!) ?? 0) + taken);
  return taken;
}

/** With TLS Node has to encrypt them; without koffi there is no way but Node's. */
export function canPour(socket: Socket | null, block: LentBlock): boolean {
  return block.address !== undefined && pouring() !== undefined && plainFd(socket) !== undefined;
}

/** All bytes that the kernel or Node has for this connection. */
export function sentBytes(socket: Socket): number {
  return socket.bytesWritten + pouredBytes(socket);
}

/** Those of them that Node knows nothing of. */
export function pouredBytes(socket: Socket): number {
  return poured.get(socket) ?? 0;
}

/** Node has no public word for it. Read each time: a connection that ended has none, and its number may be another's. */
function plainFd(socket: Socket | null): number | undefined {
  const { _handle: handle } = (socket ?? {}) as { readonly _handle?: { readonly fd?: number; readonly _parent?: unknown } | null };
  return handle?.fd !== undefined && handle.fd >= 0 && handle._parent === undefined ? handle.fd : undefined;
}
